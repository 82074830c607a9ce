"""The usage app's commands."""
