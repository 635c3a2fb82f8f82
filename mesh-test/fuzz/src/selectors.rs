//! Labels and selectors built from bytes: the same said in other words, through text and back, and by both evaluators.

use std::collections::BTreeMap;
use std::sync::Arc;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use mesh_core::labels::RESERVED_PREFIX;
use mesh_core::manifest::{self, Checked, ManifestSource};
use mesh_core::policy::PolicyScope;
use mesh_core::{ClusterName, Direction, FiveTuple, Labels, Protocol, Reason, Requirement, Resource, Selector, Verdict};
use mesh_policy::{PolicySet, naive};

use self::words::{is_key, is_value, quoted, word};

mod words;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// A requirement as the bytes say it.
#[derive(Clone, Debug)]
struct Said {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// A selector in both of its forms: `matchLabels`, whose keys differ, and `matchExpressions`.
#[derive(Clone, Debug)]
struct Written {
    labels: Vec<(String, String)>,
    expressions: Vec<Said>,
}

/// Runs one input.
pub fn run(data: &[u8]) {
    // Too few bytes are no input.
    let _ = case(&mut Unstructured::new(data));
}

fn case(u: &mut Unstructured<'_>) -> Result<()> {
    let labels = some_labels(u)?;
    let (pods, namespaces) = (written(u)?, written(u)?);
    for selector in [&pods, &namespaces] {
        laws(selector, &labels);
        text(selector);
    }
    let namespace_labels = some_labels(u)?;
    decisions(&labels, &namespace_labels, &pods, &namespaces);
    Ok(())
}

fn some_labels(u: &mut Unstructured<'_>) -> Result<BTreeMap<String, String>> {
    (0..u.int_in_range(0..=4)?).map(|_| Ok((word(u)?, word(u)?))).collect()
}

fn written(u: &mut Unstructured<'_>) -> Result<Written> {
    let mut labels: Vec<(String, String)> = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        let key = word(u)?;
        if labels.iter().all(|(other, _)| *other != key) {
            labels.push((key, word(u)?));
        }
    }
    let mut expressions = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        let operator = *u.choose(&[Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist])?;
        let values = (0..u.int_in_range(0..=3)?).map(|_| word(u)).collect::<Result<_>>()?;
        expressions.push(Said { key: word(u)?, operator, values });
    }
    Ok(Written { labels, expressions })
}

impl Said {
    fn requirement(&self) -> Requirement {
        let key: Arc<str> = self.key.as_str().into();
        let values = self.values.iter().map(|value| value.as_str().into()).collect();
        match self.operator {
            Operator::In => Requirement::In(key, values),
            Operator::NotIn => Requirement::NotIn(key, values),
            Operator::Exists => Requirement::Exists(key),
            Operator::DoesNotExist => Requirement::DoesNotExist(key),
        }
    }

    /// The meaning in other words: what is there, compared with what is wanted.
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let there = labels.iter().find(|(key, _)| **key == self.key).map(|(_, value)| value);
        let among = there.iter().filter(|value| self.values.contains(value)).count();
        match self.operator {
            Operator::In => among == 1,
            Operator::NotIn => among == 0,
            Operator::Exists => there.is_some(),
            Operator::DoesNotExist => there.is_none(),
        }
    }

    fn is_valid(&self) -> bool {
        let takes_values = matches!(self.operator, Operator::In | Operator::NotIn);
        is_key(&self.key) && self.values.iter().all(|value| is_value(value)) && takes_values != self.values.is_empty()
    }

    fn yaml(&self) -> String {
        let values: Vec<String> = self.values.iter().map(|value| quoted(value)).collect();
        let values = if values.is_empty() { String::new() } else { format!(", values: [{}]", values.join(", ")) };
        format!("{{key: {}, operator: {:?}{values}}}", quoted(&self.key), self.operator)
    }
}

impl Written {
    fn all(&self) -> impl Iterator<Item = Said> {
        let equal =
            self.labels.iter().map(|(key, value)| Said { key: key.clone(), operator: Operator::In, values: vec![value.clone()] });
        equal.chain(self.expressions.iter().cloned())
    }

    fn selector(&self) -> Selector {
        Selector { requirements: self.all().map(|said| said.requirement()).collect() }
    }

    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.all().any(|said| !said.holds(labels))
    }

    fn is_valid(&self) -> bool {
        self.all().all(|said| said.is_valid())
    }

    fn yaml(&self) -> String {
        let expressions: Vec<String> = self.expressions.iter().map(Said::yaml).collect();
        format!("{{matchLabels: {}, matchExpressions: [{}]}}", map(&self.labels), expressions.join(", "))
    }
}

fn map<'a>(pairs: impl IntoIterator<Item = &'a (String, String)>) -> String {
    let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{}: {}", quoted(key), quoted(value))).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn to_labels(labels: &BTreeMap<String, String>) -> Labels {
    labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// What holds of any selector and any labels.
fn laws(written: &Written, labels: &BTreeMap<String, String>) {
    let (selector, real) = (written.selector(), to_labels(labels));
    assert_eq!(selector.matches(&real), written.holds(labels), "{selector} {real}");
    assert!(Selector::ALL.matches(&real));

    let one = |said: &Said, operator| Said { operator, ..said.clone() }.requirement().matches(&real);
    for said in &written.expressions {
        assert_ne!(one(said, Operator::In), one(said, Operator::NotIn));
        assert_ne!(one(said, Operator::Exists), one(said, Operator::DoesNotExist));
        assert!(!one(said, Operator::In) || one(said, Operator::Exists));
        assert!(!one(said, Operator::DoesNotExist) || one(said, Operator::NotIn));
    }

    // All requirements hold: the order says nothing, and fewer of them never select less.
    let mut fewer = selector.clone();
    fewer.requirements.reverse();
    assert_eq!(fewer.matches(&real), selector.matches(&real));
    while fewer.requirements.pop().is_some() {
        assert!(!selector.matches(&real) || fewer.matches(&real));
    }

    let (kept, dropped) = real.clone().without_reserved();
    assert_eq!(kept.iter().len() + dropped.len(), labels.len());
    assert!(dropped.iter().all(|key| key.starts_with(RESERVED_PREFIX) && kept.get(key).is_none()));
    let back = kept.with(dropped.iter().map(|key| (key.as_ref(), real.get(key).expect("it was there"))));
    assert_eq!(back, real);
    assert_eq!(real.is_empty(), labels.is_empty());
    assert!(real.iter().is_sorted());
}

/// Through a manifest, and through the selector's own text.
fn text(written: &Written) {
    let text = format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: shop}}, spec: {{podSelector: {}}}}}",
        written.yaml()
    );
    let source = ManifestSource { file: "p.yaml", scope: PolicyScope::Cluster(ClusterName::new("east").expect("a name")) };
    let parsed = manifest::parse(&source, &text);
    assert_eq!(parsed.errors.is_empty(), written.is_valid(), "{text}: {:?}", parsed.errors);
    let Some((Resource::NetworkPolicy(policy), _)) = parsed.resources.first() else {
        return assert!(!written.is_valid());
    };
    assert_eq!(policy.subject, written.selector(), "{text}");
    assert_eq!(read_back(&policy.subject.to_string()), policy.subject.requirements, "{}", policy.subject);
}

/// Reads `kubectl`'s selector syntax, as `Display` writes it.
fn read_back(text: &str) -> Vec<Requirement> {
    let mut rest = if text == "{}" { "" } else { text };
    let mut requirements = Vec::new();
    while !rest.is_empty() {
        let end = rest.find([',', '(']).unwrap_or(rest.len());
        let end = if rest[end..].starts_with('(') { rest.find(')').expect("a list ends") + 1 } else { end };
        let (one, more) = rest.split_at(end);
        rest = more.strip_prefix(',').unwrap_or(more);
        let list = |list: &str| list.trim_end_matches(')').split(',').map(Arc::from).collect();
        requirements.push(if let Some((key, values)) = one.split_once(" in (") {
            Requirement::In(key.into(), list(values))
        } else if let Some((key, values)) = one.split_once(" notin (") {
            Requirement::NotIn(key.into(), list(values))
        } else if let Some(key) = one.strip_prefix('!') {
            Requirement::DoesNotExist(key.into())
        } else if let Some((key, value)) = one.split_once('=') {
            Requirement::In(key.into(), vec![value.into()])
        } else {
            Requirement::Exists(one.into())
        });
    }
    requirements
}

/// Both evaluators see the labels that there are and the implicit ones, in each place where a rule has a selector.
fn decisions(pod: &BTreeMap<String, String>, namespace: &BTreeMap<String, String>, pods: &Written, namespaces: &Written) {
    let labels_are_valid = |labels: &BTreeMap<String, String>| labels.iter().all(|(key, value)| is_key(key) && is_value(value));
    // Reserved keys of a manifest are dropped before anybody looks at their values.
    let kept = |labels: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        labels.iter().filter(|(key, _)| !key.starts_with(RESERVED_PREFIX)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let (mut seen, mut seen_namespace) = (kept(pod), kept(namespace));
    if !labels_are_valid(&seen) || !labels_are_valid(&seen_namespace) || !pods.is_valid() || !namespaces.is_valid() {
        return;
    }
    let pairs = |labels: &BTreeMap<String, String>| labels.clone().into_iter().collect::<Vec<_>>();
    let (labels, namespace_labels) = (map(&pairs(pod)), map(&pairs(namespace)));
    let (pods_text, namespaces_text) = (pods.yaml(), namespaces.yaml());
    let west = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {namespace_labels}}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: a, namespace: shop, labels: {labels}}}, spec: {{serviceAccountName: web}}, status: {{podIP: 10.2.0.1}}}}
---
{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: shop}}, spec: {{podSelector: {pods_text}}}}}
---
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {{name: c}}
spec:
  {{tier: Baseline, priority: 1, subject: {{pods: {{namespaceSelector: {namespaces_text}, podSelector: {pods_text}}}}}, egress: [{{action: Deny, to: [{{networks: [192.0.2.1/32]}}]}}]}}
"
    );
    let east = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: b, namespace: bank}}, spec: {{}}, status: {{podIP: 10.1.0.1}}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p, namespace: bank}}
spec: {{ingress: [{{from: [{{namespaceSelector: {namespaces_text}, podSelector: {pods_text}}}]}}]}}
"
    );
    let fleet = "clusters: {east: {prefixes: [10.1.0.0/16], namespaces: ['*'], attributes: {region: eu}}, \
                 west: {prefixes: [10.2.0.0/16], namespaces: ['*'], attributes: {region: us}}}";
    let files = [("clusters/west/a.yaml", west.as_str()), ("clusters/east/b.yaml", east.as_str()), ("fleet.yaml", fleet)];
    let checked = Checked::load(files).unwrap_or_else(|errors| panic!("{errors:?}\n{west}\n{east}"));

    let implicit = [("cluster", "west"), ("region", "us")].map(|(key, value)| (format!("{RESERVED_PREFIX}{key}"), value.into()));
    seen.extend(implicit.clone());
    seen.insert(format!("{RESERVED_PREFIX}service-account"), "web".into());
    seen_namespace.extend(implicit);
    seen_namespace.insert("kubernetes.io/metadata.name".into(), "shop".into());
    let (is_pod, is_namespace) = (pods.holds(&seen), namespaces.holds(&seen_namespace));

    let set = PolicySet::compile(&checked.state);
    let told = |source: &str, destination: &str, direction| {
        let (source, destination) = (source.parse().expect("an address"), destination.parse().expect("an address"));
        let tuple = FiveTuple { source, destination, protocol: Protocol::Tcp, source_port: 40_000, destination_port: 80 };
        let verdict = naive::decide(&checked.state, &tuple, direction);
        assert_eq!(set.named(set.decide(&set.flow(&tuple), direction)), verdict, "{tuple} {direction}\n{west}\n{east}");
        verdict
    };
    let subject = told("192.0.2.1", "10.2.0.1", Direction::Ingress);
    assert_eq!(subject == Verdict::Deny(Reason::Isolated), is_pod, "{subject}\n{west}");
    let peer = told("10.2.0.1", "10.1.0.1", Direction::Ingress);
    assert_eq!(peer.is_allow(), is_pod && is_namespace, "{peer}\n{west}\n{east}");
    let cluster_subject = told("10.2.0.1", "192.0.2.1", Direction::Egress);
    assert_eq!(!cluster_subject.is_allow(), is_pod && is_namespace, "{cluster_subject}\n{west}");
}
