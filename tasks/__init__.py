"""Prefect tasks: a cache key, retries and artifacts around one library call each."""
