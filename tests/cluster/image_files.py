"""What a machine can check of deploy/'s compose and Kubernetes files without running them: that they agree with each
other, with the Dockerfile and with the configuration's keys. And that these checks would notice: each planted mistake
must be found."""

import copy
import os
import re

import yaml

import image_schema

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEPLOY = os.path.join(ROOT, "deploy")
LABEL = "app.kubernetes.io/name"
PROBE_SECONDS = 7       # what sierradb-health may take: two steps of 3 s, and some


class Loader(yaml.SafeLoader):
    """PyYAML takes a key twice without a word; here it is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value if key.value != "<<"]
        if len(keys) != len(set(keys)):
            raise yaml.YAMLError(f"a key stands twice, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def load(name):
    """Each document of a file in deploy/."""
    return [document for document in yaml.load_all(read("deploy", name), Loader) if document]


# --- What the files must agree with -----------------------------------------------------------------------

class Facts:
    """The image as its Dockerfile makes it; the configuration's keys."""

    def __init__(self):
        dockerfile = read("deploy", "Dockerfile")
        self.user = int(re.search(r"(?m)^USER (\d+):\d+$", dockerfile)[1])
        self.volume = re.search(r"(?m)^VOLUME (\S+)$", dockerfile)[1]
        self.ports = [int(port) for port in re.search(r"(?m)^EXPOSE (.+)$", dockerfile)[1].split()]
        self.client, self.cluster = self.ports
        self.keys = {}
        for section, name, default in re.findall(
                r'(?s)(?:KEY\((\w+), |TOP\()(\w+), \w+, "([^"]*)"', read("common", "config.def")):
            self.keys["SIERRADB_" + (section + "_" + name if section else name).upper()] = default
        self.stop_seconds = int(self.keys["SIERRADB_SUPERVISOR_STOP_TIMEOUT_MS"]) / 1000


class Problems(list):
    def unless(self, good, text):
        if not good:
            self.append(text)


def seconds(text):
    match = re.fullmatch(r"(\d+)(s|m)", str(text))
    return int(match[1]) * (60 if match[2] == "m" else 1) if match else 0


def target_port(text):
    """HOST:CONTAINER, where HOST may be ${NAME:-default}."""
    match = re.fullmatch(r"(?:\$\{\w+:-(\d+)\}|(\d+)):(\d+)", str(text))
    return (int(match[1] or match[2]), int(match[3])) if match else (None, None)


# --- Compose ----------------------------------------------------------------------------------------------

def check_image(name, service, problems):
    """What holds for everything that is started from the image."""
    build = service.get("build", {})
    context = os.path.normpath(os.path.join(DEPLOY, build.get("context", "none")))
    problems.unless(os.path.isfile(os.path.join(context, build.get("dockerfile", "none"))), f"{name}: no Dockerfile")
    problems.unless(service.get("image") == "sierradb", f"{name}: image")
    problems.unless(service.get("read_only") is True, f"{name}: read_only")
    problems.unless(service.get("cap_drop") == ["ALL"], f"{name}: cap_drop")
    problems.unless("no-new-privileges:true" in service.get("security_opt", []), f"{name}: security_opt")


def check_service(name, service, document, facts, problems):
    check_image(name, service, problems)
    problems.unless(service.get("restart") == "unless-stopped", f"{name}: restart")
    problems.unless(seconds(service.get("stop_grace_period")) > 2 * facts.stop_seconds, f"{name}: stop_grace_period")
    problems.unless("healthcheck" not in service, f"{name}: the image brings its own healthcheck")
    for key in service.get("environment", {}):
        problems.unless(key in facts.keys, f"{name}: {key} is no configuration key")
    mounts = [mount.split(":") for mount in service.get("volumes", [])]
    problems.unless([mount[1] for mount in mounts if mount[2:] != ["ro"]] == [facts.volume],
                    f"{name}: the data isn't on a volume")
    for mount in mounts:
        problems.unless(mount[0] in document.get("volumes", {}), f"{name}: volume {mount[0]} isn't declared")
    return mounts[0][0] if mounts else None


def check_compose_single(documents, facts):
    problems = Problems()
    problems.unless(len(documents) == 1, "one document")
    services = documents[0].get("services", {})
    problems.unless(len(services) == 1, "one service")
    for name, service in services.items():
        check_service(name, service, documents[0], facts, problems)
        problems.unless([target_port(port) for port in service.get("ports", [])] == [(facts.client, facts.client)],
                        f"{name}: ports")
    return problems


def check_compose_cluster(documents, facts):
    problems = Problems()
    problems.unless(len(documents) == 1, "one document")
    services = dict(documents[0].get("services", {}))
    maker = services.pop("secret", {})
    problems.unless(len(services) == 3, "three nodes")
    peers = ",".join(f"{name}:{facts.cluster}" for name in services)
    volumes, published = [], []
    for index, (name, service) in enumerate(services.items()):
        volumes.append(check_service(name, service, documents[0], facts, problems))
        environment = service.get("environment", {})
        problems.unless(environment.get("SIERRADB_NODE_INDEX") == index, f"{name}: node.index")
        problems.unless(environment.get("SIERRADB_NETWORK_PEERS") == peers, f"{name}: peers, expected {peers}")
        check_secret_of(name, service, maker, facts, problems)
        for host, container in map(target_port, service.get("ports", [])):
            problems.unless(container == facts.client, f"{name}: only clients' port is published")
            published.append(host)
    problems.unless(published == [9091, 9092, 9093], f"published ports {published}")
    problems.unless(len(set(volumes)) == len(volumes), "two nodes on one volume")
    check_secret_maker(maker, facts, problems)
    return problems


def check_secret_of(name, service, maker, facts, problems):
    """Made by a service of its own, which has ended by then; the user's own one comes first."""
    environment = service.get("environment", {})
    problems.unless(environment.get("SIERRADB_CLUSTER_SECRET") == "${SIERRADB_CLUSTER_SECRET:-}", f"{name}: secret")
    volume = str(maker.get("volumes", [""])[0]).split(":")[0]
    mounts = [mount.split(":") for mount in service.get("volumes", [])]
    folders = [mount[1] for mount in mounts if mount[0] == volume and mount[2:] == ["ro"]]
    made = re.search(rf"mv {facts.volume}/\S+ {facts.volume}/(\w+)", str(maker.get("entrypoint")))
    problems.unless(made and [environment.get("SIERRADB_CLUSTER_SECRET_FILE")] ==
                    [f"{folder}/{made[1]}" for folder in folders], f"{name}: where the secret's file is")
    problems.unless(service.get("depends_on") == {"secret": {"condition": "service_completed_successfully"}},
                    f"{name}: it doesn't wait for the secret")


def check_secret_maker(maker, facts, problems):
    check_image("secret", maker, problems)
    problems.unless("umask 077" in str(maker.get("entrypoint")), "secret: others may read it")
    problems.unless(maker.get("network_mode") == "none" and "ports" not in maker, "secret: it needs no network")
    problems.unless(maker.get("healthcheck") == {"disable": True}, "secret: it is no node")
    problems.unless([mount.split(":")[1] for mount in maker.get("volumes", [])] == [facts.volume],
                    "secret: only a volume at the image's own folder may be written by its user")


# --- Kubernetes -------------------------------------------------------------------------------------------

API = {"Service": "v1", "PodDisruptionBudget": "policy/v1", "StatefulSet": "apps/v1"}


def check_kubernetes(documents, facts):
    problems = Problems(image_schema.check(documents))
    if problems:
        return problems  # what follows trusts in fields and types
    kinds = [document.get("kind") for document in documents]
    problems.unless(sorted(kinds) == ["PodDisruptionBudget", "Service", "Service", "StatefulSet"], f"kinds {kinds}")
    for kind, document in zip(kinds, documents):
        problems.unless(document.get("apiVersion") == API.get(kind), f"apiVersion of {kind}")
        problems.unless(document["metadata"].get("name"), f"a {kind} without a name")
    sets = [document for document in documents if document["kind"] == "StatefulSet"]
    if len(sets) != 1:
        return problems
    spec = sets[0]["spec"]
    pod = spec["template"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    problems.unless(spec["selector"]["matchLabels"] == labels and LABEL in labels, "the set's selector")
    problems.unless(spec.get("podManagementPolicy") == "Parallel", "podManagementPolicy")
    services = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "Service"}
    container = pod["containers"][0]
    problems.unless(len(pod["containers"]) == 1, "one container")
    problems.unless(container["image"].split(":")[0] == "sierradb", "image")
    check_services(services, spec, container, labels, facts, problems)
    for budget in (document["spec"] for document in documents if document["kind"] == "PodDisruptionBudget"):
        problems.unless(budget["selector"]["matchLabels"] == labels, "the budget's selector")
        problems.unless(0 < budget.get("maxUnavailable", 0) <= (spec["replicas"] - 1) // 2, "maxUnavailable")
    check_environment(sets[0], container, services, facts, problems)
    check_volumes(spec, pod, container, facts, problems)
    check_secret(pod, container, problems)
    check_spread(pod, labels, problems)
    check_probes(pod, container, facts, problems)
    check_rights(pod, container, facts, problems)
    return problems


def check_services(services, spec, container, labels, facts, problems):
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    problems.unless(ports == {"client": facts.client, "cluster": facts.cluster}, f"container's ports {ports}")
    for name, service in services.items():
        problems.unless(service["selector"].items() <= labels.items() and service["selector"], f"{name}: selector")
        for port in service["ports"]:
            problems.unless(ports.get(port["targetPort"]) == port["port"], f"{name}: port {port}")
        headless = service.get("clusterIP") == "None"
        problems.unless(headless == (name == spec["serviceName"]), f"{name}: headless or not")
        offered = {port["port"] for port in service["ports"]}
        problems.unless((facts.cluster if headless else facts.client) in offered, f"{name}: its port is missing")
        problems.unless(headless or facts.cluster not in offered, f"{name}: offers the cluster's port to clients")
        problems.unless(not headless or service.get("publishNotReadyAddresses") is True,
                        f"{name}: nodes that aren't ready can't find each other")
    problems.unless(spec["serviceName"] in services, "serviceName")


def check_environment(document, container, services, facts, problems):
    variables = {variable["name"]: variable for variable in container["env"]}
    problems.unless(len(variables) == len(container["env"]), "a variable stands twice")
    for key in variables:
        problems.unless(key in facts.keys, f"{key} is no configuration key")
    name, spec = document["metadata"]["name"], document["spec"]
    peers = ",".join(f"{name}-{index}.{spec['serviceName']}:{facts.cluster}" for index in range(spec["replicas"]))
    problems.unless(variables.get("SIERRADB_NETWORK_PEERS", {}).get("value") == peers, f"peers, expected {peers}")
    index = variables.get("SIERRADB_NODE_INDEX", {}).get("valueFrom", {}).get("fieldRef", {})
    problems.unless(index.get("fieldPath") == "metadata.labels['apps.kubernetes.io/pod-index']", "node.index")
    problems.unless("SIERRADB_CLUSTER_SECRET" not in variables, "the secret is in the environment")


def check_secret(pod, container, problems):
    """A file of a mode that sierradb takes, made as the manifest's head says."""
    path = next((v.get("value", "") for v in container["env"] if v["name"] == "SIERRADB_CLUSTER_SECRET_FILE"), "")
    mounts = [mount for mount in container["volumeMounts"] if mount["mountPath"] == os.path.dirname(path)]
    problems.unless(len(mounts) == 1 and mounts[0].get("readOnly") is True, "the secret's mount")
    names = [mount["name"] for mount in mounts]
    secret = next((v["secret"] for v in pod.get("volumes", []) if v["name"] in names and "secret" in v), {})
    problems.unless(secret.get("defaultMode") == 0o400, "the secret's mode")
    problems.unless(f"create secret generic {secret.get('secretName')} --from-literal={os.path.basename(path)}=" in
                    read("deploy", "kubernetes.yaml"), "how to make the secret isn't said")


def check_spread(pod, labels, problems):
    """A machine that is lost takes one node with it, where there are enough machines."""
    spread = pod.get("topologySpreadConstraints", [{}])[0]
    problems.unless(spread.get("topologyKey") == "kubernetes.io/hostname" and spread.get("maxSkew") == 1,
                    "nodes may share a machine")
    problems.unless(spread.get("labelSelector", {}).get("matchLabels") == labels, "the spread's selector")


def check_volumes(spec, pod, container, facts, problems):
    templates = {template["metadata"]["name"]: template["spec"] for template in spec["volumeClaimTemplates"]}
    volumes = [volume["name"] for volume in pod.get("volumes", [])] + list(templates)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    problems.unless(sorted(volumes) == sorted(mounts), f"volumes {volumes}, mounts {mounts}")
    problems.unless([mounts.get(name) for name in templates] == [facts.volume], "the data isn't on a claimed volume")
    for name, template in templates.items():
        problems.unless(template["accessModes"] == ["ReadWriteOnce"], f"{name}: accessModes")
        problems.unless(template["resources"]["requests"].get("storage"), f"{name}: storage")
    for variable in container["env"]:
        if variable["name"] == "SIERRADB_RUN_DIR":
            folder = os.path.dirname(variable["value"])
            problems.unless(folder in mounts.values(), "run_dir isn't in a folder that can be written")


def check_probes(pod, container, facts, problems):
    for probe, word in (("startupProbe", "live"), ("livenessProbe", "live"), ("readinessProbe", "ready")):
        settings = container.get(probe, {})
        problems.unless(settings.get("exec", {}).get("command") == ["sierradb-health", word], f"{probe}: command")
        problems.unless(settings.get("timeoutSeconds", 0) >= PROBE_SECONDS, f"{probe}: timeoutSeconds")
        problems.unless(settings.get("periodSeconds", 0) > 0 and settings.get("failureThreshold", 0) > 1,
                        f"{probe}: one lost answer is no failure")
    startup = container.get("startupProbe", {})
    problems.unless(startup.get("periodSeconds", 0) * startup.get("failureThreshold", 0) >= 300,
                    "startupProbe: recovery may take minutes")
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    problems.unless(pod.get("terminationGracePeriodSeconds", 0) > pause + 2 * facts.stop_seconds,
                    "terminationGracePeriodSeconds")


def check_rights(pod, container, facts, problems):
    rights = pod.get("securityContext", {})
    problems.unless(rights.get("runAsNonRoot") is True, "runAsNonRoot")
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        problems.unless(rights.get(key) == facts.user, f"{key}: the image's is {facts.user}")
    own = container.get("securityContext", {})
    problems.unless(own.get("readOnlyRootFilesystem") is True, "readOnlyRootFilesystem")
    problems.unless(own.get("allowPrivilegeEscalation") is False, "allowPrivilegeEscalation")
    problems.unless(own.get("capabilities") == {"drop": ["ALL"]}, "capabilities")
    resources = container.get("resources", {})
    problems.unless({"cpu", "memory"} <= resources.get("requests", {}).keys(), "resources: requests")
    problems.unless("memory" in resources.get("limits", {}), "resources: limits")


# --- All of it, and mistakes that must be found -----------------------------------------------------------

FILES = {"docker-compose.single.yml": check_compose_single, "docker-compose.yml": check_compose_cluster,
         "kubernetes.yaml": check_kubernetes}

# file, path of what is changed, its wrong value (None: removed)
MISTAKES = [
    ("docker-compose.single.yml", (0, "services", "sierradb", "volumes", 0), "data:/var/lib/data"),
    ("docker-compose.single.yml", (0, "services", "sierradb", "volumes", 0), "other:/data"),
    ("docker-compose.single.yml", (0, "services", "sierradb", "ports", 0), "9090:9190"),
    ("docker-compose.single.yml", (0, "services", "sierradb", "build", "dockerfile"), "Dockerfile"),
    ("docker-compose.single.yml", (0, "services", "sierradb", "stop_grace_period"), "10s"),
    ("docker-compose.single.yml", (0, "services", "sierradb", "restart"), None),
    ("docker-compose.yml", (0, "services", "node1", "environment", "SIERRADB_NODE_INDEX"), 0),
    ("docker-compose.yml", (0, "services", "node1", "environment", "SIERRADB_NETWORK_PEERS"),
     "node1:9190,node0:9190,node2:9190"),
    ("docker-compose.yml", (0, "services", "node2", "environment", "SIERRADB_CLUSTER_SECRET"),
     "${SIERRADB_CLUSTER_SECRET:-secret}"),
    ("docker-compose.yml", (0, "services", "node2", "environment", "SIERRADB_CLUSTER_SECRET_FILE"), "/secret/other"),
    ("docker-compose.yml", (0, "services", "node2", "volumes", 1), "secret:/secret"),
    ("docker-compose.yml", (0, "services", "node2", "depends_on"), ["secret"]),
    ("docker-compose.yml", (0, "services", "secret", "network_mode"), None),
    ("docker-compose.yml", (0, "services", "secret", "volumes", 0), "secret:/secret"),
    ("docker-compose.yml", (0, "services", "secret", "entrypoint", 2), "mv /data/new /data/cluster"),
    ("docker-compose.yml", (0, "services", "node2", "environment", "SIERRADB_NODE_COUNTS"), 3),
    ("docker-compose.yml", (0, "services", "node2", "volumes", 0), "data1:/data"),
    ("docker-compose.yml", (0, "services", "node2", "ports", 0), "9092:9090"),
    ("docker-compose.yml", (0, "services", "node2", "read_only"), False),
    ("docker-compose.yml", (0, "services", "node2"), None),
    ("kubernetes.yaml", (0, "spec", "publishNotReadyAddresses"), None),
    ("kubernetes.yaml", (0, "spec", "clusterIP"), None),
    ("kubernetes.yaml", (0, "spec", "ports", 0, "targetPort"), "client"),
    ("kubernetes.yaml", (1, "spec", "selector", LABEL), "other"),
    ("kubernetes.yaml", (1, "spec", "ports", 0, "port"), 9190),
    ("kubernetes.yaml", (2, "spec", "maxUnavailable"), 2),
    ("kubernetes.yaml", (2, "spec", "selector", "matchLabels", LABEL), "other"),
    ("kubernetes.yaml", (2, "apiVersion"), "policy/v1beta1"),
    ("kubernetes.yaml", (3, "spec", "replicas"), 5),
    ("kubernetes.yaml", (3, "spec", "serviceName"), "sierradb"),
    ("kubernetes.yaml", (3, "spec", "podManagementPolicy"), None),
    ("kubernetes.yaml", (3, "spec", "template", "metadata", "labels", LABEL), "other"),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "terminationGracePeriodSeconds"), 20),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "securityContext", "fsGroup"), 1000),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "volumes", 1, "name"), "sockets"),
    ("kubernetes.yaml", (3, "spec", "volumeClaimTemplates", 0, "metadata", "name"), "datas"),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "env", 0, "valueFrom", "fieldRef",
                         "fieldPath"), "metadata.name"),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "env", 2, "value"), "/etc/sierradb/other"),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "env", 2),
     {"name": "SIERRADB_CLUSTER_SECRET", "value": "secret"}),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "volumes", 0, "secret", "secretName"), "other"),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "volumes", 0, "secret", "defaultMode"), 0o444),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "volumeMounts", 2, "readOnly"), None),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "topologySpreadConstraints"), None),
    ("kubernetes.yaml", (0, "spec", "publishNotReady"), True),
    ("kubernetes.yaml", (1, "metadata", "name"), "sierradb_1"),
    ("kubernetes.yaml", (1, "spec", "ports", 0, "port"), 90900),
    ("kubernetes.yaml", (3, "spec", "replicas"), "3"),
    ("kubernetes.yaml", (3, "spec", "selector"), None),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "terminationGracePeriodSecond"), 60),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "automountServiceAccountToken"), "no"),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "resources", "limits", "memory"), "2 GiB"),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "livenessProbe", "exec", "command"),
     "sierradb-health live"),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "env", 3, "value"), 1),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "volumes", 1, "emptyDir", "medium"), 1),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "env", 3, "value"), "/run"),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "readinessProbe", "exec", "command", 1),
     "live"),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "livenessProbe"), None),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "startupProbe", "failureThreshold"), 3),
    ("kubernetes.yaml", (3, "spec", "template", "spec", "containers", 0, "securityContext",
                         "readOnlyRootFilesystem"), None),
]


def planted(documents, path, value):
    documents = copy.deepcopy(documents)
    place = documents
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return documents


def check(result):
    facts = Facts()
    loaded = {}
    for name, checker in FILES.items():
        loaded[name] = load(name)
        problems = checker(loaded[name], facts)
        result.expect(not problems, f"deploy/{name}: {'; '.join(problems)}")
    for name, path, value in MISTAKES:
        where = ".".join(map(str, path))
        result.expect(FILES[name](planted(loaded[name], path, value), facts),
                      f"deploy/{name} with {where} = {value}: the mistake isn't found")
    try:
        yaml.load("a: 1\na: 2\n", Loader)
        result.expect(False, "a key that stands twice isn't found")
    except yaml.YAMLError:
        result.expect(True, "")


def cluster_environments():
    """What each node of the two clusters is told, as (name, {variable: value})."""
    secret = "0123456789abcdef0123456789abcdef"
    found = []
    for name, service in load("docker-compose.yml")[0]["services"].items():
        if "environment" not in service:
            continue  # no node: it makes the secret
        environment = dict(service["environment"], SIERRADB_CLUSTER_SECRET=secret, SIERRADB_NETWORK_PASSWORD="")
        found.append((name, {key: str(value) for key, value in environment.items()}))
    spec = next(document for document in load("kubernetes.yaml") if document["kind"] == "StatefulSet")["spec"]
    variables = spec["template"]["spec"]["containers"][0]["env"]
    for index in range(spec["replicas"]):
        told = {"SIERRADB_NODE_INDEX": str(index)}
        environment = {v["name"]: v.get("value", told.get(v["name"])) for v in variables}
        # In place of the file, which isn't here.
        found.append((f"pod {index}", dict(environment, SIERRADB_CLUSTER_SECRET=secret)))
    return found
