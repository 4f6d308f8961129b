"""Results into the app's database, and campaigns closed."""
