"""A manifest against Kubernetes' own models, the client library that is generated from its API: no field that doesn't
exist there (the server would drop it, or refuse all), none left out that must be there, no value of another type;
names, labels, ports and quantities as the API takes them."""

import re

from kubernetes.client import models

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
SCALARS = {"str": str, "int": int, "bool": bool, "float": float}
UNIQUE = ("name", "mountPath", "containerPort")
NAMED = {"V1ObjectMeta", "V1Container", "V1Volume", "V1VolumeMount", "V1ContainerPort", "V1ServicePort"}
QUANTITIES = {"limits", "requests", "sizeLimit"}


def check(documents):
    """What is wrong, in words."""
    problems = []
    for document in documents:
        where = document.get("kind", "?")
        if not hasattr(models, f"V1{where}"):
            problems.append(f"{where}: no such kind")
        else:
            check_object(f"V1{where}", document, where, problems)
    return problems


def check_object(kind, value, where, problems):
    model = getattr(models, kind)
    if not isinstance(value, dict):
        problems.append(f"{where}: expected an object ({kind}), got {value!r}")
        return
    snakes = {camel: snake for snake, camel in model.attribute_map.items()}
    for key, part in value.items():
        if key not in snakes:
            problems.append(f"{where}: no field {key}; {kind} has {', '.join(sorted(snakes))}")
        else:
            check_value(model.openapi_types[snakes[key]], part, f"{where}.{key}", problems)
    try:
        model(**{snakes[key]: part for key, part in value.items() if key in snakes})
    except ValueError as error: # something required is missing
        problems.append(f"{where}: {error}")
    if kind in NAMED and not NAME.fullmatch(str(value.get("name", "a"))):
        problems.append(f"{where}.name: {value['name']!r} is no name")


def check_value(kind, value, where, problems):
    inner = re.fullmatch(r"(?:list\[|List\[|dict\(str, |Dict\[str, )(.+?)[\])]", kind)
    if inner and kind[0] in "lL":
        check_list(inner[1], value, where, problems)
    elif inner:
        check_map(inner[1], value, where, problems)
    elif kind in SCALARS:
        # In Python True is a number; in JSON it isn't.
        if not isinstance(value, SCALARS[kind]) or (kind != "bool" and isinstance(value, bool)):
            problems.append(f"{where}: expected {kind}, got {value!r}")
        else:
            check_scalar(value, where, problems)
    elif kind == "object":
        if not isinstance(value, (int, str)) or isinstance(value, bool):
            problems.append(f"{where}: expected a number or text, got {value!r}")
    else:
        check_object(kind, value, where, problems)


def check_list(kind, value, where, problems):
    if not isinstance(value, list) or not value:
        problems.append(f"{where}: expected a list with something in it, got {value!r}")
        return
    for index, part in enumerate(value):
        check_value(kind, part, f"{where}[{index}]", problems)
    for key in UNIQUE:
        names = [part[key] for part in value if isinstance(part, dict) and key in part]
        if len(set(names)) != len(names):
            problems.append(f"{where}: two have the same {key}: {names}")


def check_map(kind, value, where, problems):
    if not isinstance(value, dict):
        problems.append(f"{where}: expected a map, got {value!r}")
        return
    for key, part in value.items():
        check_value(kind, part, f"{where}.{key}", problems)
        if where.rsplit(".", 1)[-1] in QUANTITIES and not QUANTITY.fullmatch(str(part)):
            problems.append(f"{where}.{key}: {part!r} is no quantity")
        if where.endswith(("labels", "matchLabels", "selector")) and not LABEL_VALUE.fullmatch(str(part)):
            problems.append(f"{where}.{key}: {part!r} is no label's value")


def check_scalar(value, where, problems):
    last = where.rsplit(".", 1)[-1]
    if last in ("port", "containerPort") and not 0 < value < 65536:
        problems.append(f"{where}: {value} is no port")
    if last in QUANTITIES and not QUANTITY.fullmatch(value):
        problems.append(f"{where}: {value!r} is no quantity")
    if last == "defaultMode" and not 0 <= value <= 0o777:
        problems.append(f"{where}: {value} is no mode")
