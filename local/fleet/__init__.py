"""Devices, simulated and recorded, over HTTPS and MQTT; and the ledger of what they sent."""
