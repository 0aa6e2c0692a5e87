"""What limits or a policy would have done to the connections of a log.

stamps      time stamps of logs as seconds
formats     the table of formats: one regular expression each; columns: CSV, and JSON lines
reading     lines to events: connects, disconnects, sessions with a duration; several logs in one order of time
run         the sessions of a log are opened, asked for and closed by the log's clock
denials     what limits that say ``then deny for`` have denied
results     what came of it: figures, distributions, the smallest limits for a share of refusals
page        the same as one page of HTML with plots
"""
