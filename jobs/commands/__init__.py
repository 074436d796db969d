"""One file per command: options to a typed config, one call, what is printed, the exit status.

May use every package; nothing else imports click.
"""
