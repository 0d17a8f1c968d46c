"""Simulated and recorded devices, over HTTPS and MQTT, and the ledger of their readings."""
