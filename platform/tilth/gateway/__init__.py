"""The thin ASGI app: inference and every upload; key, hold, forward, settle."""
