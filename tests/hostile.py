"""What a model, an article or a server could write to break a page, or to run something on it; a hit sets `window.hit`."""

HOSTILE = [
    "<script>window.hit = 1</script>",
    "</td><img src=x onerror=window.hit=1>",
    '<iframe src="javascript:parent.hit=1"></iframe>',
    "{raw} html",
    "```{raw} html\n<img src=x onerror=window.hit=1>\n```",
    ":::{note}\nx\n:::",
    "{doc}`nowhere`",
    "{{ env }}",
    "$$\\frac{1}{2}$$",
    "a | b | c",
    "[x](javascript:window.hit=1)",
    "1. first\n2. second",
    "# heading",
    "heading\n===",
    "    code",
    "www.example.org",
    "&lt;b&gt;",
    "\u202eright to left\x00\ud800",
]
