"""A shared audit on a terminal, live: `inbound-audit watch`.

    tree      which rows of a look are shown: nested, opened, sorted and filtered
    table     the widget that draws them
    panels    beside it: the last minutes, limits, refusals, processes and nodes
    sources   what can be looked at: open sessions, monitors and series
    looker    the thread that looks
    screens   questions and lists over the whole screen
    export    what is seen, as a file
    app       the application

What other processes, users and logs wrote is drawn as text: never as markup, and without control characters.
"""
