"""Search: many configurations at once, the hopeless ones stopped early, the best kept."""
