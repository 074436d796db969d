"""What needs a GPU: the tests marked `gpu`, and `python -m tests.gpu`, which runs and measures all in one command."""
