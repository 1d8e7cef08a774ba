"""The spool on this machine's disk, and the upload of its entries."""
