"""What every room uses: the settings, the names of the keys, the Redis client, logs."""
