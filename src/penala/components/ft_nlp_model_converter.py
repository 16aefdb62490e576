"""Write the tuned model as an MLflow model folder."""

from typing import Any

from penala.components.entry import Report, run
from penala.package.write import write_package


def body(arguments: dict[str, Any], report: Report) -> None:
    write_package(
        arguments["model_path"],
        arguments["mlflow_model_folder"],
        base=arguments["model_import_output"],
        evaluation=arguments["evaluation_result"],
        report=report,
    )


if __name__ == "__main__":
    run("ft_nlp_model_converter", body)
