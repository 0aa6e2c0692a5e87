"""Lists of networks in files, each network with a value: `lists` searches them, `rbldnsd` reads their format."""
