"""Users, sign-up, sign-in and second factors (django-allauth)."""
