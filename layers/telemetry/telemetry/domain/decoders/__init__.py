"""Decoders: from a format's bytes to documents; `telemetry.domain.formats` chooses the decoder."""
