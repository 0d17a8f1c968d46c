"""Pages in a real Chromium, against the embedded AWS: `make browser`."""
