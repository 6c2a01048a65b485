//! Tells hash sets from lists, which serde does not, by the names of their types.

/// Whether a type may be a hash set: it has a type parameter. The compiler evaluates this ahead of time for
/// most types.
#[inline]
pub(crate) fn may_be_hash_set(type_name: &str) -> bool {
    // Type parameters come after lifetimes, and a hash set has one.
    type_name.ends_with('>') && !type_name.ends_with("'_>")
}

/// Whether the values of a type are sequences in no particular order.
pub(crate) fn is_hash_set(mut type_name: &str) -> bool {
    if !may_be_hash_set(type_name) {
        return false;
    }
    while let Some(inner) = TRANSPARENT.iter().find_map(|wrapper| type_name.strip_prefix(wrapper)) {
        type_name = inner;
    }
    let path = type_name.split('<').next().unwrap_or_default();
    path.ends_with("HashSet")
}

/// Types that serde sees through.
const TRANSPARENT: &[&str] =
    &["&", "mut ", "alloc::boxed::Box<", "alloc::sync::Arc<", "alloc::rc::Rc<", "alloc::borrow::Cow<"];

#[cfg(test)]
mod tests {
    use std::any::type_name;
    use std::borrow::Cow;
    use std::collections::{BTreeSet, HashMap, HashSet};
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;

    struct Borrowing<'a>(#[expect(dead_code, reason = "only its type matters")] &'a u8);

    #[test]
    fn the_compiler_names_hash_sets_as_expected() {
        type Set = HashSet<u8>;
        let sets = [
            type_name::<Set>(),
            type_name::<&Set>(),
            type_name::<&mut Set>(),
            type_name::<&&Arc<Box<Set>>>(),
            type_name::<Rc<Set>>(),
            type_name::<Cow<'_, Set>>(),
        ];
        assert!(sets.into_iter().all(is_hash_set), "{sets:?}");
        let others = [
            type_name::<u8>(),
            type_name::<Vec<Set>>(),
            type_name::<Option<Set>>(),
            type_name::<BTreeSet<Set>>(),
            type_name::<(Set,)>(),
            type_name::<HashMap<u8, Set>>(),
            type_name::<Borrowing<'_>>(),
        ];
        assert!(!others.into_iter().any(is_hash_set), "{others:?}");
    }
}
