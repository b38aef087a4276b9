"""Who may use the Admin API: what every request meets before the Admin API itself.

`hosts` refuses what a web page made a browser send, `login` asks for a token, `tokens` knows the
file of them, `callers` says who is calling and what the role may do.
"""
