"""What is wrong with a request by its words and files alone: told before torch is loaded, which takes seconds."""
