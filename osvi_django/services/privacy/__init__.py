"""Personal data: how long it is kept, and what is removed and exported of one person."""
