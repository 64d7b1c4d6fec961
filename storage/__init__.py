"""What is kept: sessions, turns and messages, in one SQL database."""
