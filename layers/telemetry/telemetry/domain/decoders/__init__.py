"""Decoders: the documents in a format's bytes; `telemetry.domain.formats` picks one of them."""
