"""What becomes of a turn, as spans of a trace; what that needs is loaded where it is wanted."""
