"""The adapters: the only code that imports boto3 and Powertools."""
