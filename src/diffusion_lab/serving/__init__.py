"""The service: an engine that fills holes for many at once, and what stands in front of it."""
