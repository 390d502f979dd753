//! What each filter can make of a value; those of which no bound is known are refused.

use minijinja::machinery::ast::{CallArg, Expr};

use super::value::Bound;
use super::{ESCAPED, Judge, Problem};

impl<'a> Judge<'a> {
    /// What a filter makes of a value.
    pub(super) fn filter(
        &mut self,
        name: &str,
        value: Bound,
        args: &[CallArg<'a>],
        at: Option<usize>,
    ) -> Result<Bound, Problem> {
        let given = self.args(args)?;
        let turns = value.turns();
        Ok(match name {
            "length" | "count" | "round" | "abs" | "int" | "float" | "bool" => Bound::NUMBER,
            "safe" | "trim" | "string" => Bound::text(value.shown()),
            "first" | "last" | "min" | "max" => value.element(),
            "reverse" | "attr" | "sum" | "select" | "reject" | "selectattr" | "rejectattr"
            | "sort" | "unique" => value,
            "dictsort" | "items" | "groupby" => {
                Bound::list(value.text.saturating_mul(2), turns.saturating_mul(3)).of_lists()
            }
            "list" => Bound {
                items: turns,
                ..value
            },
            "lines" | "split" => Bound::list(value.text, turns.saturating_add(1)),
            "default" | "d" => value.or(given),
            "lower" | "upper" | "title" | "capitalize" | "urlencode" => {
                Bound::text(value.shown()).times(3)
            }
            "escape" | "e" => Bound::text(value.shown()).times(ESCAPED),
            "pprint" => Bound::text(
                value
                    .shown()
                    .saturating_mul(2)
                    .saturating_add(turns.saturating_mul(64)),
            ),
            "chain" | "zip" => value.and(given).of_lists(),
            "join" => Bound::text(
                value
                    .shown()
                    .saturating_add(turns.saturating_mul(given.text)),
            ),
            "replace" => {
                let text = |arg: Option<&CallArg<'a>>| match arg {
                    Some(CallArg::Pos(Expr::Const(constant))) => {
                        constant.value.as_str().map(|text| text.len() as u64)
                    }
                    _ => None,
                };
                let from = text(args.first()).filter(|from| *from > 0);
                let to = text(args.get(1)).unwrap_or(given.text);
                // Nothing, at the worst, is replaced before each character.
                let value = Bound::text(value.shown());
                match from {
                    Some(from) => value.times(to.div_ceil(from).max(1)),
                    None => value.times(to.saturating_add(1)).and(Bound::text(to)),
                }
            }
            "map" => match args.first() {
                Some(CallArg::Kwarg("attribute", _)) => Bound::list(value.text, turns),
                Some(CallArg::Pos(Expr::Const(filter)))
                    if filter
                        .value
                        .as_str()
                        .is_some_and(|name| LINEAR.contains(&name)) =>
                {
                    Bound::list(
                        value
                            .times(ESCAPED)
                            .text
                            .saturating_add(turns.saturating_mul(48)),
                        turns,
                    )
                }
                _ => {
                    return Err((
                        at,
                        format!(
                            "map() takes one of these filters here: {}",
                            LINEAR.join(", ")
                        ),
                    ));
                }
            },
            // minijinja's own error names what there is instead.
            _ if matches!(name, "batch" | "slice" | "indent" | "format" | "tojson") => {
                return Err((
                    at,
                    format!("the filter {name} may take any memory and is left out"),
                ));
            }
            _ => value,
        })
    }
}

/// Filters that may be mapped: what they make of all elements is bounded by the elements.
const LINEAR: [&str; 12] = [
    "trim",
    "lower",
    "upper",
    "title",
    "capitalize",
    "escape",
    "e",
    "urlencode",
    "int",
    "float",
    "length",
    "string",
];
