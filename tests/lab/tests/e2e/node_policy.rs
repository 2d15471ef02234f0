//! The policy of manifests/node-policy.yaml, by which an agent changes its own Node only. The API servers of these tests
//! are older than such policies, so its expressions are evaluated here: parsed and run by an interpreter of the Common
//! Expression Language, on what an API server gives them
//! (<https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/>).

use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use cel::{Context, Env, Value as CelValue};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use serde_json::{Value, json};

use crate::chart::{objects, repository};

/// Where the API server puts the name of the node that a pod's token was made for.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

fn object(kind: &str) -> Result<Value> {
    let text = fs::read_to_string(repository("manifests/node-policy.yaml"))?;
    objects(&text)?.into_iter().find(|object| object["kind"] == kind).with_context(|| format!("no {kind}"))
}

fn policy() -> Result<ValidatingAdmissionPolicy> {
    Ok(serde_json::from_value(object("ValidatingAdmissionPolicy")?)?)
}

/// What an expression is worth, as the API server's CEL has it: with the optional types and no other extension.
fn evaluate(expression: &str, variables: &Value) -> Result<CelValue> {
    let env = Arc::new(Env::stdlib());
    let program = env.compile(expression).map_err(|error| anyhow!("{expression}: {error}"))?;
    let mut context = Context::with_env(env);
    for (name, value) in variables.as_object().context("variables")? {
        context.add_variable(name.as_str(), value).map_err(|error| anyhow!("{name}: {error}"))?;
    }
    program.execute(&context).map_err(|error| anyhow!("{expression}: {error}"))
}

fn holds(expression: &str, variables: &Value) -> Result<bool> {
    match evaluate(expression, variables)? {
        CelValue::Bool(holds) => Ok(holds),
        other => Err(anyhow!("{expression} is {other:?}")),
    }
}

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Decision {
    /// The policy is not about it.
    Untouched,
    Allowed,
    Refused(String),
}

/// Judges a change of a Node as the API server does; an error is an expression that fails.
fn judge(user: &Value, before: &Value, after: &Value) -> Result<Decision> {
    let spec = policy()?.spec.context("spec")?;
    let mut given = json!({
        "request": { "operation": "UPDATE", "name": before["metadata"]["name"], "userInfo": user },
        "oldObject": before,
        "object": after,
    });
    for condition in spec.match_conditions.iter().flatten() {
        if !holds(&condition.expression, &given)? {
            return Ok(Decision::Untouched);
        }
    }
    given["variables"] = json!({});
    for variable in spec.variables.iter().flatten() {
        let value = evaluate(&variable.expression, &given)?.json().map_err(|error| anyhow!("{error}"))?;
        given["variables"][&variable.name] = value;
    }
    for validation in spec.validations.iter().flatten() {
        if !holds(&validation.expression, &given)? {
            let said = validation.message_expression.as_ref().map(|expression| evaluate(expression, &given));
            let message = match said.transpose()? {
                Some(CelValue::String(text)) => text.to_string(),
                Some(other) => return Err(anyhow!("a message is {other:?}")),
                None => validation.message.clone().context("no message")?,
            };
            return Ok(Decision::Refused(message));
        }
    }
    Ok(Decision::Allowed)
}

/// What the API server knows of an agent by its token.
fn agent_of(node: &str) -> Value {
    json!({
        "username": "system:serviceaccount:kube-system:kilo",
        "uid": "8a0e0e5e-3f2b-4c4e-9f4b-2f1f4c1d6a01",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
        "extra": {
            NODE_NAME: [node],
            "authentication.kubernetes.io/node-uid": ["5d0c5b0e-0f4e-4d6b-8f43-6a3f6f0d8b02"],
            "authentication.kubernetes.io/pod-name": ["kilo-x7k2p"],
        },
    })
}

fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": { "topology.kubernetes.io/region": "paris" },
            "annotations": { "kilo.squat.ai/key": "old", "volumes.kubernetes.io/controller-managed-attach-detach": "true" },
            "resourceVersion": "7",
        },
        "spec": { "podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"] },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] },
    })
}

/// `node` with one change: `pointer` (RFC 6901) is set to `value`, or removed.
fn with(mut node: Value, pointer: &str, value: Option<Value>) -> Result<Value> {
    let (parent, key) = pointer.rsplit_once('/').context("pointer")?;
    let parent = node.pointer_mut(parent).and_then(Value::as_object_mut).context("no such object")?;
    let key = key.replace("~1", "/");
    match value {
        Some(value) => _ = parent.insert(key, value),
        None => _ = parent.remove(&key),
    }
    Ok(node)
}

const OWN: &str = "/metadata/annotations/kilo.squat.ai~1key";
const FOREIGN: &str = "/metadata/annotations/volumes.kubernetes.io~1controller-managed-attach-detach";

#[test]
fn an_agent_changes_its_own_annotations_of_its_own_node_only() -> Result<()> {
    let only_annotations = "an agent may change annotations in kilo.squat.ai/ only";
    let nothing_else = "an agent may change nothing of a Node but annotations";
    for (pointer, value, refused) in [
        (OWN, Some(json!("new")), None),
        (OWN, None, None),
        ("/metadata/annotations/kilo.squat.ai~1wireguard-ip", Some(json!("10.4.0.1/16")), None),
        ("/metadata/resourceVersion", Some(json!("8")), None),
        ("/metadata/managedFields", Some(json!([{ "manager": "kilo" }])), None),
        (FOREIGN, Some(json!("false")), Some(only_annotations)),
        (FOREIGN, None, Some(only_annotations)),
        ("/metadata/annotations/example.com~1new", Some(json!("")), Some(only_annotations)),
        ("/metadata/annotations/kilo.squat.aix", Some(json!("")), Some(only_annotations)),
        ("/metadata/annotations", None, Some(only_annotations)),
        ("/metadata/labels/topology.kubernetes.io~1region", Some(json!("rome")), Some(nothing_else)),
        ("/metadata/labels", None, Some(nothing_else)),
        ("/metadata/finalizers", Some(json!(["example.com/never"])), Some(nothing_else)),
        ("/metadata/ownerReferences", Some(json!([{ "kind": "Pod", "name": "gone" }])), Some(nothing_else)),
        ("/spec/unschedulable", Some(json!(true)), Some(nothing_else)),
        ("/spec/podCIDR", Some(json!("10.42.9.0/24")), Some(nothing_else)),
    ] {
        let decision = judge(&agent_of("paris-1"), &node("paris-1"), &with(node("paris-1"), pointer, value.clone())?)?;
        let expected = refused.map_or(Decision::Allowed, |message| Decision::Refused(message.to_owned()));
        ensure!(decision == expected, "{pointer} to {value:?}: {decision:?}");
    }
    // A Node that nobody has annotated yet.
    let bare = with(node("paris-1"), "/metadata/annotations", None)?;
    let announced = with(bare.clone(), "/metadata/annotations", Some(json!({ "kilo.squat.ai/key": "new" })))?;
    ensure!(judge(&agent_of("paris-1"), &bare, &announced)? == Decision::Allowed);
    ensure!(judge(&agent_of("paris-1"), &announced, &bare)? == Decision::Allowed);
    Ok(())
}

#[test]
fn an_agent_changes_no_other_node() -> Result<()> {
    let after = with(node("paris-2"), OWN, Some(json!("new")))?;
    let refused = |name: &str| Decision::Refused(format!("an agent may change its own Node only, which is {name:?}"));
    ensure!(judge(&agent_of("paris-1"), &node("paris-2"), &after)? == refused("paris-1"));
    // Tokens that are bound to no pod, or were made by an older API server, name no node.
    for extra in [None, Some(json!({})), Some(json!({ NODE_NAME: [] })), Some(json!({ "example.com/x": ["paris-2"] }))]
    {
        let token = with(agent_of("paris-2"), "/extra", extra.clone())?;
        let decision = judge(&token, &node("paris-2"), &after)?;
        ensure!(decision == refused(""), "{extra:?}: {decision:?}");
    }
    Ok(())
}

#[test]
fn nobody_elses_changes_are_touched() -> Result<()> {
    let after = with(node("paris-2"), "/spec/unschedulable", Some(json!(true)))?;
    for username in ["kubernetes-admin", "system:node:paris-2", "system:serviceaccount:default:kilo"] {
        let user = with(agent_of("paris-1"), "/username", Some(json!(username)))?;
        ensure!(judge(&user, &node("paris-2"), &after)? == Decision::Untouched, "{username}");
    }
    let constraints = policy()?.spec.and_then(|spec| spec.match_constraints).context("matchConstraints")?;
    let rules = constraints.resource_rules.context("resourceRules")?;
    ensure!(rules.len() == 1, "{rules:?}");
    // Patches are UPDATEs; kubelet's writes of the status are another resource.
    ensure!(rules[0].operations.as_deref() == Some(&["UPDATE".to_owned()]), "{rules:?}");
    ensure!(rules[0].resources.as_deref() == Some(&["nodes".to_owned()]), "{rules:?}");
    Ok(())
}

/// A policy without a binding does nothing, and one whose expressions fail must refuse.
#[test]
fn the_policy_is_in_force() -> Result<()> {
    let binding: ValidatingAdmissionPolicyBinding =
        serde_json::from_value(object("ValidatingAdmissionPolicyBinding")?)?;
    let (policy, binding) = (policy()?, binding.spec.context("spec")?);
    ensure!(binding.policy_name == policy.metadata.name, "{binding:?}");
    ensure!(binding.validation_actions.as_deref() == Some(&["Deny".to_owned()]), "{binding:?}");
    ensure!(policy.spec.context("spec")?.failure_policy.as_deref() == Some("Fail"));
    Ok(())
}

/// What the policy takes for granted of the language, by its definition
/// (<https://github.com/google/cel-spec/blob/master/doc/langdef.md>) and that of its optional types
/// (<https://pkg.go.dev/github.com/google/cel-go/cel#OptionalTypes>).
#[test]
fn the_interpreter_knows_optional_values() -> Result<()> {
    let given = json!({ "x": { "map": { "a/b": ["one"] }, "empty": [] } });
    for (expression, expected) in [
        ("has(x.map) && !has(x.other)", true),
        (r#"x.map[?"a/b"][?0].orValue("") == "one""#, true),
        (r#"x.map[?"c"][?0].orValue("") == """#, true),
        (r#"x.empty[?0].orValue("none") == "none""#, true),
        (r#"x.?other[?"c"][?0].orValue("") == """#, true),
        ("x.?other.orValue({}) == {}", true),
        ("x.?map.orValue({}) == {}", false),
        ("{'a': [1, {'b': 2}]} == {'a': [1, {'b': 2}]}", true),
        ("{'a': 1} == {'a': 1, 'b': 2}", false),
    ] {
        ensure!(holds(expression, &given)? == expected, "{expression}");
    }
    for failing in ["x.other == 1", "x.map['c'] == []", "x.empty[0] == ''", "unknown", "1 +", "x.map == "] {
        ensure!(evaluate(failing, &given).is_err(), "{failing}");
    }
    Ok(())
}
