"""The page of the routes."""

from pneumonia.service import documentation

DESCRIPTION = {
    "info": {"title": "<films>", "description": "a & b"},
    "paths": {
        "/v1/x": {
            "post": {
                "summary": "does <x>",
                "description": "with care",
                "parameters": [{"name": "point", "description": "which"}],
                "requestBody": {"description": "a file", "content": {"image/*": {}, "text/x": {}}},
                "responses": {"200": {"description": "done"}, "415": {"description": "no image"}},
            }
        }
    },
}


def test_it_names_each_route_with_parameters_bodies_and_statuses() -> None:
    page = documentation.page(DESCRIPTION)
    for text in ("POST /v1/x", "does &lt;x&gt;", "with care", "<code>point</code><td>which", "a &amp; b"):
        assert text in page
    for text in ("<code>image/*, text/x</code><td>a file", "<code>415</code><td>no image", "&lt;films&gt;"):
        assert text in page
    assert page.count('<tr><th scope="row">') == page.count("<tr>") == 4
    assert "<x>" not in page
    assert "<script" not in page
    assert "style=" not in page
