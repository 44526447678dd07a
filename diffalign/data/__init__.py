"""Preference sets: records in Parquet shards, importers, pairing and filters."""
