"""How much anybody may ask for: by name, by address, and by what is open at once."""
