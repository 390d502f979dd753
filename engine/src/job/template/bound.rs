//! How much memory one rendering of a text may take, told from the text before it is compiled.
//!
//! minijinja bounds steps, not values: `{% set x = x ~ x %}` doubles `x` for four steps of fuel, and `replace` or `join` may
//! multiply two fields. So every expression gets a bound on what its value can hold, computed from the largest field that a row
//! may have; what may need more than [`TEMPLATE_MEMORY_MAX`] is refused with its line. What grows with each turn of a loop,
//! and what no bound is known of, is refused too.
//!
//! The bound is one of the worst row: a text is judged once, and no row can make it larger. It counts values that variables
//! hold and those of one expression; what is written out has a bound of its own ([`crate::limits::TEMPLATE_OUTPUT_MAX`]).

mod filters;
mod value;

use std::collections::BTreeMap;

use minijinja::machinery::ast::{BinOpKind, CallArg, CallType, Expr, Stmt};
use minijinja::machinery::{Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;

use crate::limits::{JOB_FIELD_MAX, TEMPLATE_FUEL, TEMPLATE_MEMORY_MAX};
use value::Bound;

/// What is wrong with a text, and in which line of it.
pub(super) type Problem = (Option<usize>, String);

/// Judges a text. What cannot be parsed is left to the compiler, which says why.
pub(super) fn check(source: &str) -> Result<(), Problem> {
    check_tags(source)?;
    let Ok(Stmt::Template(template)) = parse(source, "", SyntaxConfig::default()) else {
        return Ok(());
    };
    let mut judge = Judge::default();
    judge.body(&template.children).map(|_| ())
}

/// Compilers descend into an expression once for each of its operators, and would run out of stack.
fn check_tags(source: &str) -> Result<(), Problem> {
    let (mut tokens, mut branches) = (0, 0);
    for token in tokenize(source, false, SyntaxConfig::default()) {
        let Ok((token, span)) = token else {
            return Ok(());
        };
        let line = Some(span.start_line as usize);
        match token {
            Token::VariableStart | Token::BlockStart => tokens = 0,
            Token::Ident("if") => branches = 0,
            Token::Ident("elif") => branches += 1,
            _ => {}
        }
        tokens += 1;
        if tokens > TAG_TOKENS_MAX {
            let what = format!("a tag has more than {TAG_TOKENS_MAX} words: use several");
            return Err((line, what));
        }
        if branches > TAG_TOKENS_MAX {
            let what = format!("an if has more than {TAG_TOKENS_MAX} branches");
            return Err((line, what));
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Judge<'a> {
    /// Variables, in whatever scope: of one name the largest counts.
    variables: BTreeMap<&'a str, Bound>,
    /// What the expression at hand has come to.
    held: u64,
    visits: u64,
}

impl<'a> Judge<'a> {
    /// What the body writes at most.
    fn body(&mut self, body: &[Stmt<'a>]) -> Result<u64, Problem> {
        let mut out = 0_u64;
        for statement in body {
            out = out.saturating_add(self.statement(statement)?);
        }
        Ok(out)
    }

    fn statement(&mut self, statement: &Stmt<'a>) -> Result<u64, Problem> {
        self.held = 0;
        match statement {
            Stmt::EmitRaw(raw) => Ok(raw.raw.len() as u64),
            Stmt::EmitExpr(emit) => Ok(self.expr(&emit.expr)?.shown().saturating_mul(ESCAPED)),
            Stmt::Do(call) => self
                .call_of(&call.call, line(call.span().start_line))
                .map(|_| 0),
            Stmt::IfCond(branch) => {
                self.expr(&branch.expr)?;
                let then = self.body(&branch.true_body)?;
                Ok(then.max(self.body(&branch.false_body)?))
            }
            Stmt::AutoEscape(block) => {
                self.expr(&block.enabled)?;
                self.body(&block.body)
            }
            Stmt::WithBlock(with) => {
                for (target, value) in &with.assignments {
                    let value = self.expr(value)?;
                    self.assign(target, value)?;
                }
                self.body(&with.body)
            }
            Stmt::Set(set) => {
                let value = self.expr(&set.expr)?;
                self.assign(&set.target, value).map(|()| 0)
            }
            Stmt::SetBlock(set) => {
                let captured = Bound::text(self.body(&set.body)?);
                let value = self.filtered(captured, set.filter.as_ref())?;
                self.assign(&set.target, value).map(|()| 0)
            }
            Stmt::FilterBlock(block) => {
                let captured = Bound::text(self.body(&block.body)?);
                Ok(self.filtered(captured, Some(&block.filter))?.text)
            }
            Stmt::ForLoop(each) => {
                let at = line(each.span().start_line);
                if each.recursive {
                    return Err((at, "a recursive loop may take any memory".to_owned()));
                }
                let over = self.expr(&each.iter)?;
                self.assign(&each.target, over.element())?;
                // What lies before and behind the turn's element, too.
                let known = self.variables.entry("loop").or_insert(Bound::NUMBER);
                *known = known.or(over.element());
                let mut out = 0;
                // A variable keeps its value from turn to turn; the second turn is like all others.
                for turn in 0..2 {
                    let before = (turn == 1).then(|| self.variables.clone());
                    if let Some(filter) = &each.filter_expr {
                        self.expr(filter)?;
                    }
                    out = self.body(&each.body)?;
                    if let Some(before) = before
                        && let Some(name) = grown(&before, &self.variables)
                    {
                        let what = format!(
                            "{name} grows with each turn of the loop: it may take any memory"
                        );
                        return Err((at, what));
                    }
                }
                let turns = over.turns().min(TEMPLATE_FUEL);
                let other = self.body(&each.else_body)?;
                Ok(out.saturating_mul(turns).max(other))
            }
            Stmt::Template(template) => self.body(&template.children),
        }
    }

    fn assign(&mut self, target: &Expr<'a>, value: Bound) -> Result<(), Problem> {
        let at = line(target.span().start_line);
        match target {
            Expr::Var(variable) => {
                let known = self.variables.entry(variable.id).or_insert(value);
                *known = known.or(value);
                let all = self.variables.values();
                let all = all.fold(0_u64, |all, one| all.saturating_add(one.memory()));
                within(all, at)
            }
            Expr::List(list) => list
                .items
                .iter()
                .try_for_each(|target| self.assign(target, value)),
            Expr::Tuple(list) => list
                .items
                .iter()
                .try_for_each(|target| self.assign(target, value)),
            _ => Err((at, "only variables can be set".to_owned())),
        }
    }

    fn filtered(&mut self, value: Bound, filter: Option<&Expr<'a>>) -> Result<Bound, Problem> {
        match filter {
            None => Ok(value),
            Some(Expr::Filter(filter)) => {
                let at = line(filter.span().start_line);
                let value = match &filter.expr {
                    Some(inner) => self.filtered(value, Some(inner))?,
                    None => value,
                };
                let bound = self.filter(filter.name, value, &filter.args, at)?;
                self.note(bound, at)
            }
            Some(other) => Err((line(other.span().start_line), "is no filter".to_owned())),
        }
    }

    /// Takes note of a value that the expression makes.
    fn note(&mut self, value: Bound, at: Option<usize>) -> Result<Bound, Problem> {
        self.held = self.held.saturating_add(value.memory());
        within(self.held, at)?;
        Ok(value)
    }

    fn expr(&mut self, expr: &Expr<'a>) -> Result<Bound, Problem> {
        let at = line(expr.span().start_line);
        self.visits += 1;
        if self.visits > VISITS_MAX {
            return Err((at, "loops are nested too deeply".to_owned()));
        }
        let bound = match expr {
            // What a row or the job says; no field is larger. It is there already: reading it takes nothing.
            Expr::Var(variable) => {
                let known = self.variables.get(variable.id).copied();
                return Ok(known.unwrap_or(Bound::text(JOB_FIELD_MAX as u64)));
            }
            Expr::Const(constant) => match constant.value.as_str() {
                Some(text) => Bound::text(text.len() as u64),
                None => Bound::NUMBER,
            },
            Expr::Slice(slice) => {
                for part in [&slice.start, &slice.stop, &slice.step]
                    .into_iter()
                    .flatten()
                {
                    self.expr(part)?;
                }
                self.expr(&slice.expr)?
            }
            Expr::UnaryOp(unary) => {
                self.expr(&unary.expr)?;
                Bound::NUMBER
            }
            Expr::Compare(compare) => {
                self.expr(&compare.expr)?;
                for operand in &compare.ops {
                    self.expr(&operand.expr)?;
                }
                Bound::NUMBER
            }
            Expr::Test(test) => {
                self.expr(&test.expr)?;
                self.args(&test.args)?;
                Bound::NUMBER
            }
            Expr::BinOp(binary) => {
                let (left, right) = (self.expr(&binary.left)?, self.expr(&binary.right)?);
                match binary.op {
                    BinOpKind::Concat => Bound::text(left.shown().saturating_add(right.shown())),
                    BinOpKind::Add => left.and(right),
                    BinOpKind::Mul if !(left.is_number && right.is_number) => {
                        let count = whole(&binary.left).or_else(|| whole(&binary.right));
                        let Some(count) = count else {
                            return Err((
                                at,
                                "repeats a text as often as a value says: it may take any memory"
                                    .to_owned(),
                            ));
                        };
                        let one = if whole(&binary.left).is_some() {
                            right
                        } else {
                            left
                        };
                        Bound {
                            items: one.items.saturating_mul(count),
                            ..one.times(count)
                        }
                    }
                    BinOpKind::ScAnd | BinOpKind::ScOr => left.or(right),
                    _ => Bound::NUMBER,
                }
            }
            Expr::IfExpr(choice) => {
                self.expr(&choice.test_expr)?;
                let then = self.expr(&choice.true_expr)?;
                match &choice.false_expr {
                    Some(other) => then.or(self.expr(other)?),
                    None => then,
                }
            }
            Expr::Filter(filter) => {
                let Some(value) = &filter.expr else {
                    return Err((at, "is no expression".to_owned()));
                };
                let value = self.expr(value)?;
                self.filter(filter.name, value, &filter.args, at)?
            }
            Expr::GetAttr(attribute) => {
                let of_loop = matches!(&attribute.expr, Expr::Var(name) if name.id == "loop");
                match (of_loop, attribute.name) {
                    (
                        true,
                        "index" | "index0" | "revindex" | "revindex0" | "first" | "last" | "length",
                    ) => Bound::NUMBER,
                    _ => self.expr(&attribute.expr)?,
                }
            }
            Expr::GetItem(item) => {
                self.expr(&item.subscript_expr)?;
                self.expr(&item.expr)?
            }
            Expr::Call(call) => self.call_of(call, at)?,
            Expr::List(list) => self.all(&list.items)?,
            Expr::Tuple(list) => self.all(&list.items)?,
            Expr::Map(map) => self.all(&map.keys)?.and(self.all(&map.values)?),
        };
        self.note(bound, at)
    }

    fn all(&mut self, items: &[Expr<'a>]) -> Result<Bound, Problem> {
        let mut all = Bound::text(0);
        for item in items {
            let item = self.expr(item)?;
            let one = Bound::list(item.text, item.items.saturating_add(1));
            let is_nested = item.nested || item.items > 0;
            all = all.and(if is_nested { one.of_lists() } else { one });
        }
        Ok(all)
    }

    fn args(&mut self, args: &[CallArg<'a>]) -> Result<Bound, Problem> {
        let mut all = Bound::text(0);
        for arg in args {
            let (CallArg::Pos(expr)
            | CallArg::Kwarg(_, expr)
            | CallArg::PosSplat(expr)
            | CallArg::KwargSplat(expr)) = arg;
            all = all.and(self.expr(expr)?);
        }
        Ok(all)
    }

    fn call_of(
        &mut self,
        call: &minijinja::machinery::ast::Call<'a>,
        at: Option<usize>,
    ) -> Result<Bound, Problem> {
        let args = self.args(&call.args)?;
        match call.identify_call() {
            CallType::Function("range") => Ok(Bound::list(RANGE_MAX * 8, RANGE_MAX)),
            CallType::Function("dict") => Ok(args.and(Bound::list(0, 1)).of_lists()),
            CallType::Method(Expr::Var(of), "cycle" | "changed") if of.id == "loop" => Ok(args),
            CallType::Function("namespace") => {
                let what = "a namespace may grow without end: use set, or a column";
                Err((at, what.to_owned()))
            }
            // There is no such function, which is found behind this.
            CallType::Function(_) => Ok(args),
            CallType::Method(_, name) => Err((at, format!("{name}() is not known here"))),
            CallType::Object(_) => Err((at, "calls a value".to_owned())),
        }
    }
}

/// A variable that holds more than before.
fn grown<'a>(
    before: &BTreeMap<&'a str, Bound>,
    after: &BTreeMap<&'a str, Bound>,
) -> Option<&'a str> {
    let grown = after
        .iter()
        .find(|(name, bound)| before.get(*name) != Some(bound));
    grown.map(|(name, _)| *name)
}

fn within(octets: u64, at: Option<usize>) -> Result<(), Problem> {
    if octets <= TEMPLATE_MEMORY_MAX {
        return Ok(());
    }
    let (max, field) = (TEMPLATE_MEMORY_MAX >> 20, JOB_FIELD_MAX >> 10);
    Err((
        at,
        format!(
            "may take more than {max} MiB of memory when fields are as large as they may be ({field} KiB): build less of it here, and more in the columns"
        ),
    ))
}

/// A number that stands in the text.
fn whole(expr: &Expr<'_>) -> Option<u64> {
    match expr {
        Expr::Const(constant) => constant.value.as_usize().map(|count| count as u64),
        _ => None,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as problems have it")]
const fn line(number: u16) -> Option<usize> {
    Some(number as usize)
}

/// Most octets for one, escaped as HTML.
const ESCAPED: u64 = 6;
/// Elements of a range, as minijinja bounds them.
const RANGE_MAX: u64 = 100_000;
/// Words and signs of one tag, and branches of one condition.
const TAG_TOKENS_MAX: usize = 1_000;
/// Expressions looked at: each level of loops doubles them.
const VISITS_MAX: u64 = 4_000_000;

#[cfg(test)]
mod tests;
