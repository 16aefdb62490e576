"""What people said: reading and checking files of conversations, and cutting them into splits."""
