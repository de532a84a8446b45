"""Bring the pretrained weights of the chosen model, or note that there are none."""

from pneumonia import backbone, models, params, tracking
from stages import DATA, run, tracked


def main() -> None:
    settings = params.load()
    row = models.model_row(settings.model)
    with tracked("backbone", settings):
        brought = backbone.bring(row.weights_urls, settings.weights, DATA / "backbone")
        tracking.tag(weights=brought.name)
        tracking.log_file(DATA / "backbone" / "backbone.json")
    print(f"{settings.model}: {'pretrained weights: ' + brought.name if row.weights_urls else 'has no backbone'}")


if __name__ == "__main__":
    run(main)
