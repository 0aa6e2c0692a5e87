"""Pictures as plain shapes, and shapes as files.

shapes       what a drawing consists of: rectangles, and lines of text; colours: their names, and scales
hilbert      where an IPv4 prefix lies on the map
parts        the rows of a picture with their colours and titles; labels
address_map  IPv4 as a map; icicle: IPv6
figure       both of a picture, with a heading and a legend
bars         numbers one beside the other
svg, png     a drawing as a file
"""
