"""Prefect flows: one file each, the body reads as prose."""
