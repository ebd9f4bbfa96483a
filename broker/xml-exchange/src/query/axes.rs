//! Walking a document.

use super::Fault;
use super::ast::{Axis, KindTest, NameTest, NodeTest};
use super::value::{Budget, Node};

/// The nodes along an axis that pass a test, in the axis' own order.
pub fn walk<'d>(
    from: Node<'d>,
    axis: Axis,
    test: &NodeTest,
    budget: &mut Budget<'_>,
) -> Result<Vec<Node<'d>>, Fault> {
    let mut found = Vec::new();
    let mut take = |candidate: Node<'d>| {
        budget.spend(1)?;
        if passes(&candidate, axis, test) {
            found.push(candidate);
        }
        Ok(())
    };
    let node = from.node;
    match (axis, from.attribute) {
        (Axis::Itself, _) => take(from)?,
        (Axis::Parent, Some(_)) => take(node.into())?,
        (Axis::Ancestor, Some(_)) => node.ancestors().try_for_each(|node| take(node.into()))?,
        (Axis::AncestorOrSelf, attribute) => {
            if attribute.is_some() {
                take(from)?;
            }
            node.ancestors().try_for_each(|node| take(node.into()))?;
        }
        (Axis::DescendantOrSelf, Some(_)) => take(from)?,
        (Axis::Following, Some(_)) => {
            node.descendants().skip(1).try_for_each(|node| take(node.into()))?;
            following(node, &mut take)?;
        }
        (Axis::Preceding, Some(_)) => preceding(node, &mut take)?,
        // An attribute has nothing below it or beside it.
        (_, Some(_)) => {}
        (Axis::Child, None) => node.children().try_for_each(|node| take(node.into()))?,
        (Axis::Descendant, None) => node.descendants().skip(1).try_for_each(|node| take(node.into()))?,
        (Axis::DescendantOrSelf, None) => node.descendants().try_for_each(|node| take(node.into()))?,
        (Axis::Attribute, None) => {
            (0..node.attributes().len() as u32)
                .try_for_each(|nth| take(Node { node, attribute: Some(nth) }))?;
        }
        (Axis::Parent, None) => node.parent().map_or(Ok(()), |parent| take(parent.into()))?,
        (Axis::Ancestor, None) => node.ancestors().skip(1).try_for_each(|node| take(node.into()))?,
        (Axis::FollowingSibling, None) => {
            node.next_siblings().skip(1).try_for_each(|node| take(node.into()))?;
        }
        (Axis::PrecedingSibling, None) => {
            node.prev_siblings().skip(1).try_for_each(|node| take(node.into()))?;
        }
        (Axis::Following, None) => following(node, &mut take)?,
        (Axis::Preceding, None) => preceding(node, &mut take)?,
    }
    Ok(found)
}

/// What comes behind a node and all that it contains.
fn following<'d>(
    node: roxmltree::Node<'d, 'd>,
    take: &mut impl FnMut(Node<'d>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for ancestor in node.ancestors() {
        for sibling in ancestor.next_siblings().skip(1) {
            sibling.descendants().try_for_each(|node| take(node.into()))?;
        }
    }
    Ok(())
}

/// What comes before a node and does not contain it, backwards.
fn preceding<'d>(
    node: roxmltree::Node<'d, 'd>,
    take: &mut impl FnMut(Node<'d>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for ancestor in node.ancestors() {
        for sibling in ancestor.prev_siblings().skip(1) {
            let below: Vec<_> = sibling.descendants().collect();
            below.into_iter().rev().try_for_each(|node| take(node.into()))?;
        }
    }
    Ok(())
}

fn passes(node: &Node<'_>, axis: Axis, test: &NodeTest) -> bool {
    match test {
        NodeTest::Name(name) => {
            let of_principal_kind = match axis {
                Axis::Attribute => node.attribute.is_some(),
                _ => node.attribute.is_none() && node.node.is_element(),
            };
            of_principal_kind && name.fits(node)
        }
        NodeTest::Kind(kind) => kind.has(node),
    }
}

impl KindTest {
    /// Whether a node is of the kind.
    pub fn has(&self, node: &Node<'_>) -> bool {
        let is_attribute = node.attribute.is_some();
        match self {
            KindTest::Any => true,
            KindTest::Attribute(name) => is_attribute && name.fits(node),
            _ if is_attribute => false,
            KindTest::Text => node.node.is_text(),
            KindTest::Comment => node.node.is_comment(),
            KindTest::Document => node.node.is_root(),
            KindTest::Element(name) => node.node.is_element() && name.fits(node),
            KindTest::ProcessingInstruction(target) => {
                let instruction = node.node.pi();
                instruction.is_some_and(|found| target.as_ref().is_none_or(|target| target == found.target))
            }
        }
    }
}

impl NameTest {
    fn fits(&self, node: &Node<'_>) -> bool {
        let Some((namespace, local)) = node.name() else { return false };
        self.local.as_ref().is_none_or(|wanted| wanted == local)
            && self.namespace.as_ref().is_none_or(|wanted| wanted.as_deref() == namespace)
    }
}
