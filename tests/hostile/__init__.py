"""Hostile inputs, made by code, and what each entry point does with them."""
