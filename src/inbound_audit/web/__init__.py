"""A page for browsers on one audit, live. Needs the extra `web`.

    hub           looks for all clients: one walk per look and distinct source, encoded once
    changes       what differs between two looks
    access        who may read and who may change; which requests come from another site
    application   the routes: the page, its files and the JSON below /api
    server        serves them over TCP and Unix sockets, with bounds on time and connections

The page itself lies in static/: plain modules and one style sheet.
"""
