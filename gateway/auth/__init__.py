"""Who it is that asks: credentials, what they prove, and until when."""
