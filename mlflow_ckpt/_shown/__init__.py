"""What users see: text without control characters and credentials, and warnings."""
