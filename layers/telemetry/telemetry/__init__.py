"""The telemetry pipeline's shared code: `domain` decides, `aws` talks to AWS, handlers wire."""
