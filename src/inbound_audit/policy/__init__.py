"""What decides whether a session may stay.

`base` declares the hooks of a policy and what scripts have in common; `verdict` and `message` are what hooks return and
receive; `limits` is the policy without a script; `dry_run` wraps any policy; `load` loads a script by its suffix.
"""
