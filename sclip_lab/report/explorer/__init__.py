"""One photo in a page: where every patch looks, what it resembles, what it is called.

`maps.look` runs the variants; `document.page` makes one HTML file of the result.
"""
