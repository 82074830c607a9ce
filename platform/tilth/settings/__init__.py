"""Django settings by environment: base, dev, test, prod; env.py alone reads the environment."""
