"""The manual pages and completion for shells, made of the documentation and the commands when it is installed."""
