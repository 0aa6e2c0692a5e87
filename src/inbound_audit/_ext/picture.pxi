# Pictures: the heaviest prefixes of a sum of trees, as Python rows.


cdef u32 rows_asked(object rows) except 0:
    """Raises TypeError, and ValueError beyond the bounds."""
    if not 2 <= index(rows) <= picture.MAX_PICTURE_ROWS:
        raise ValueError(f"{rows!r}: a picture has from 2 to {picture.MAX_PICTURE_ROWS} rows")
    return index(rows)


cdef list drawn(picture.Picture *pic, u32 rows, object within, int code):
    """Draws a picture of its parts unless `code`, that of the parts, is not OK; frees it.

    `within`: of what lies in that prefix; None: of all.

    Returns `(count, "prefix/length", parent)` in address order, IPv4 first, a prefix before what it holds; `parent` is
    the position of the row that it is in, -1 if it is in none. Raises CidrError, MemoryError.
    """
    cdef u32 spot
    cdef object position
    cdef list made = [], waiting
    cdef prefix.Prefix p
    cdef const prefix.Prefix *only = NULL
    try:
        if within is not None:
            read_prefix(within, NULL, &p)
            only = &p
        if code == codes.OK:
            with nogil:
                code = picture.draw(pic, rows, only)
        if code != codes.OK:
            raise MemoryError
        waiting = [(spot, -1) for spot in reversed(range(pic.families))]
        while waiting:
            spot, position = waiting.pop()
            inside = len(made)
            made.append((pic.spot[spot].count, prefix_text(&pic.spot[spot].prefix), position))
            for i in range(1, -1, -1):
                if pic.spot[spot].inside[i]:
                    waiting.append((pic.spot[spot].inside[i], inside))
        return made
    finally:
        picture.free_picture(pic)
