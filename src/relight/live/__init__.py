"""The only part that deals with torch: the user's model, built in a process of its own."""
