//! Operators of templates as Python has them, and bounds on what a template of a stranger may do with them.
//!
//! minijinja has no hook for operators. So a template's syntax tree is copied with calls of functions in the places of
//! operators that minijinja spells, or pays for, otherwise than it should. Their names begin with a space, so that no
//! template can name them.

use minijinja::machinery::ast::{
    AutoEscape, BinOp, BinOpKind, Block, Call, CallArg, CallBlock, Compare, CompareOp, CompareOpKind, Const, EmitExpr, EmitRaw,
    Expr, Filter, FilterBlock, ForLoop, GetAttr, GetItem, IfCond, IfExpr, List, Macro, Map, Set, SetBlock, Slice, Spanned, Stmt,
    Template, Test, Tuple, UnaryOp, UnaryOpKind, Var, WithBlock,
};
use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};

/// `a ~ b`.
pub(super) const CONCAT: &str = " concat";
/// `a % b`.
pub(super) const REMAINDER: &str = " remainder";
/// `a / b`.
pub(super) const QUOTIENT: &str = " quotient";
/// `a + b` where one of them is safe markup.
pub(super) const ADDED: &str = " added";
/// What a comparison reads, paid for.
pub(super) const COMPARED: &str = " compared";
/// What `in` searches: paid for, and not none.
pub(super) const SEARCHED: &str = " searched";
/// What a loop goes over: not none, and a text as its characters.
pub(super) const LOOPED: &str = " looped";
/// The step of a slice: minijinja makes it positive.
pub(super) const STEPPED: &str = " stepped";
/// What is iterated over: not none.
pub(super) const ITERATED: &str = " iterated";
/// What is iterated over and compared with each other.
pub(super) const SORTED: &str = " sorted";
/// What gets a name: nested no deeper than JSON, and paid for.
pub(super) const NAMED: &str = " named";

/// What an attribute of a namespace becomes: as what gets a name, and no namespace, or one could hold itself.
pub(super) const HELD: &str = " held";
/// What becomes text, spelled as Python does.
pub(super) const SPELLED: &str = " spelled";
/// `a.items` where nothing is called.
pub(super) const ATTRIBUTE: &str = " attribute";
/// `a['items']`.
pub(super) const SUBSCRIPT: &str = " subscript";

/// Methods of Python's dictionaries, which attributes of these names are, and subscripts without such a key.
const OF_DICTIONARIES: [&str; 11] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];

/// Filters that iterate over what they are given, and with jinja2 fail on none.
const ITERATING: [&str; 10] = ["list", "join", "first", "last", "batch", "slice", "sum", "length", "count", "reverse"];
/// Those that make a text of it first.
const SPELLING: [&str; 8] = ["upper", "lower", "title", "capitalize", "replace", "trim", "e", "escape"];
/// Those that compare it too.
const SORTING: [&str; 6] = ["sort", "unique", "groupby", "dictsort", "min", "max"];

/// Operators that one expression may have within each other. The parser calls itself for some of them.
const MOST_NESTED: usize = 250;
/// Conditions that one statement may have, those around it included.
const MOST_BRANCHES: usize = 150;

fn too_complex(span: Span) -> Error {
    Error::new(ErrorKind::SyntaxError, format!("an expression of too many parts (in line {})", span.start_line))
}

/// Refuses templates that the parser would need too much stack for.
pub(super) fn check(source: &str, syntax: SyntaxConfig) -> Result<(), Error> {
    // Operators since each bracket was opened, or since the comma in it; and their sum.
    let mut open = vec![0_usize];
    let mut branches = vec![0_usize];
    let mut first_in_block = false;
    for token in tokenize(source, false, syntax) {
        let (token, span) = token?;
        let of_block = std::mem::replace(&mut first_in_block, false);
        let nested = open.iter().sum::<usize>();
        let top = open.last_mut();
        match token {
            Token::TemplateData(_) | Token::Str(_) | Token::String(_) | Token::Int(_) | Token::Int128(_) | Token::Float(_) => {}
            Token::VariableStart => open = vec![0],
            Token::BlockStart => {
                open = vec![0];
                first_in_block = true;
            }
            Token::Ident("if") if of_block => branches.push(1),
            Token::Ident("elif") if of_block => *branches.last_mut().unwrap_or(&mut 0) += 1,
            Token::Ident("endif") if of_block => drop(branches.pop()),
            Token::BracketOpen | Token::ParenOpen | Token::BraceOpen => open.push(1),
            Token::BracketClose | Token::ParenClose | Token::BraceClose => {
                open.pop();
                // The expression in the brackets is an operand of the one around them.
                if let Some(around) = open.last_mut() {
                    *around += 1;
                }
            }
            Token::Comma | Token::Colon => *top.unwrap_or(&mut 0) = 1,
            Token::Ident(name) if !matches!(name, "not" | "and" | "or" | "is" | "in" | "if" | "else") => {}
            _ => *top.unwrap_or(&mut 0) += 1,
        }
        if nested > MOST_NESTED || branches.iter().sum::<usize>() > MOST_BRANCHES {
            return Err(too_complex(span));
        }
    }
    Ok(())
}

fn call<'a>(name: &'static str, args: Vec<Expr<'a>>, span: Span) -> Expr<'a> {
    let args = args.into_iter().map(CallArg::Pos).collect();
    Expr::Call(Spanned::new(Call { expr: Expr::Var(Spanned::new(Var { id: name }, span)), args }, span))
}

/// The same, of one argument that is not a constant.
fn through<'a>(name: &'static str, expr: Expr<'a>) -> Expr<'a> {
    match &expr {
        // Of constants, only none is refused.
        Expr::Const(constant) if !constant.value.is_none() || ![ITERATED, SEARCHED, SORTED].contains(&name) => expr,
        _ => {
            let span = expr.span();
            call(name, vec![expr], span)
        }
    }
}

/// What `{% set %}` and its like give a name to.
fn named<'a>(expr: &Expr<'a>) -> Expr<'a> {
    match expr {
        // It has a name already.
        Expr::Var(_) => expression(expr),
        _ => through(NAMED, expression(expr)),
    }
}

/// `{% set x = named(x) %}` for each variable of an assignment's left side.
fn rename<'a>(target: &Expr<'a>, into: &mut Vec<Stmt<'a>>) {
    match target {
        Expr::Var(var) => {
            let expr = through(NAMED, expression(target));
            into.push(Stmt::Set(Spanned::new(Set { target: expression(target), expr }, var.span())));
        }
        Expr::List(list) => list.items.iter().for_each(|item| rename(item, into)),
        _ => {}
    }
}

fn expressions<'a>(all: &[Expr<'a>]) -> Vec<Expr<'a>> {
    all.iter().map(expression).collect()
}

fn optional<'a>(expr: &Option<Expr<'a>>) -> Option<Expr<'a>> {
    expr.as_ref().map(expression)
}

fn arguments<'a>(args: &[CallArg<'a>]) -> Vec<CallArg<'a>> {
    let copy = |arg: &CallArg<'a>| match arg {
        CallArg::Pos(expr) => CallArg::Pos(expression(expr)),
        CallArg::Kwarg(name, expr) => CallArg::Kwarg(name, expression(expr)),
        CallArg::PosSplat(expr) => CallArg::PosSplat(expression(expr)),
        CallArg::KwargSplat(expr) => CallArg::KwargSplat(expression(expr)),
    };
    args.iter().map(copy).collect()
}

fn call_of<'a>(call: &Spanned<Call<'a>>) -> Spanned<Call<'a>> {
    Spanned::new(Call { expr: place(&call.expr), args: arguments(&call.args) }, call.span())
}

/// What is called or set: an attribute stays one.
fn place<'a>(expr: &Expr<'a>) -> Expr<'a> {
    match expr {
        Expr::GetAttr(e) => Expr::GetAttr(Spanned::new(GetAttr { expr: expression(&e.expr), name: e.name }, e.span())),
        _ => expression(expr),
    }
}

/// Whether an expression is markup that is safe, as a filter says in it, or a sum with such.
fn is_markup(expr: &Expr) -> bool {
    match expr {
        Expr::Filter(e) => ["safe", "escape", "e"].contains(&e.name),
        Expr::BinOp(e) => matches!(e.op, BinOpKind::Add) && (is_markup(&e.left) || is_markup(&e.right)),
        _ => false,
    }
}

fn binary<'a>(e: &Spanned<BinOp<'a>>) -> Expr<'a> {
    use BinOpKind as Kind;
    let (left, right) = (expression(&e.left), expression(&e.right));
    let right = match e.op {
        Kind::Concat => return call(CONCAT, vec![left, right], e.span()),
        Kind::Add if is_markup(&e.left) || is_markup(&e.right) => return call(ADDED, vec![left, right], e.span()),
        Kind::Div => return call(QUOTIENT, vec![left, right], e.span()),
        Kind::Rem => return call(REMAINDER, vec![left, right], e.span()),
        Kind::Eq | Kind::Ne | Kind::Lt | Kind::Lte | Kind::Gt | Kind::Gte => through(COMPARED, right),
        Kind::In => through(SEARCHED, right),
        _ => right,
    };
    Expr::BinOp(Spanned::new(BinOp { op: e.op, left, right }, e.span()))
}

fn expression<'a>(expr: &Expr<'a>) -> Expr<'a> {
    macro_rules! new {
        ($kind:ident, $of:ident, $node:expr) => {
            Expr::$kind(Spanned::new($node, $of.span()))
        };
    }
    match expr {
        Expr::Var(e) => new!(Var, e, Var { id: e.id }),
        Expr::Const(e) => new!(Const, e, Const { value: e.value.clone() }),
        Expr::Slice(e) => {
            let [start, stop, step] = [&e.start, &e.stop, &e.step].map(optional);
            let step = step.map(|step| call(STEPPED, vec![step], e.span()));
            new!(Slice, e, Slice { expr: expression(&e.expr), start, stop, step })
        }
        Expr::UnaryOp(e) => {
            let op = if matches!(e.op, UnaryOpKind::Not) { UnaryOpKind::Not } else { UnaryOpKind::Neg };
            new!(UnaryOp, e, UnaryOp { op, expr: expression(&e.expr) })
        }
        Expr::BinOp(e) => binary(e),
        Expr::Compare(e) => {
            let operand = |o: &CompareOp<'a>| {
                let searches = matches!(o.op, CompareOpKind::In | CompareOpKind::NotIn);
                CompareOp { op: o.op, expr: through(if searches { SEARCHED } else { COMPARED }, expression(&o.expr)) }
            };
            new!(Compare, e, Compare { expr: expression(&e.expr), ops: e.ops.iter().map(operand).collect() })
        }
        Expr::IfExpr(e) => {
            let (test_expr, true_expr) = (expression(&e.test_expr), expression(&e.true_expr));
            new!(IfExpr, e, IfExpr { test_expr, true_expr, false_expr: optional(&e.false_expr) })
        }
        Expr::Filter(e) => {
            let input = optional(&e.expr).map(|input| match e.name {
                name if SORTING.contains(&name) => through(SORTED, input),
                name if SPELLING.contains(&name) => {
                    let span = input.span();
                    call(SPELLED, vec![input], span)
                }
                name if ITERATING.contains(&name) => through(ITERATED, input),
                _ => input,
            });
            new!(Filter, e, Filter { name: e.name, expr: input, args: arguments(&e.args) })
        }
        Expr::Test(e) => new!(Test, e, Test { name: e.name, expr: expression(&e.expr), args: arguments(&e.args) }),
        Expr::GetAttr(e) if OF_DICTIONARIES.contains(&e.name) => {
            let name = Expr::Const(Spanned::new(Const { value: e.name.into() }, e.span()));
            call(ATTRIBUTE, vec![expression(&e.expr), name], e.span())
        }
        Expr::GetAttr(_) => place(expr),
        Expr::GetItem(e) if matches!(&e.subscript_expr, Expr::Const(c) if c.value.as_str().is_some_and(|name| OF_DICTIONARIES.contains(&name))) => {
            call(SUBSCRIPT, vec![expression(&e.expr), expression(&e.subscript_expr)], e.span())
        }
        Expr::GetItem(e) => {
            let (expr, subscript_expr) = (expression(&e.expr), expression(&e.subscript_expr));
            new!(GetItem, e, GetItem { expr, subscript_expr })
        }
        Expr::Call(e) => Expr::Call(call_of(e)),
        Expr::List(e) => new!(List, e, List { items: expressions(&e.items) }),
        Expr::Tuple(e) => new!(Tuple, e, Tuple { items: expressions(&e.items) }),
        Expr::Map(e) => new!(Map, e, Map { keys: expressions(&e.keys), values: expressions(&e.values) }),
    }
}

fn statements<'a>(all: &[Stmt<'a>]) -> Result<Vec<Stmt<'a>>, Error> {
    all.iter().map(rewrite).collect()
}

fn macro_of<'a>(m: &Spanned<Macro<'a>>) -> Result<Spanned<Macro<'a>>, Error> {
    let mut body = Vec::new();
    m.args.iter().for_each(|arg| rename(arg, &mut body));
    body.extend(statements(&m.body)?);
    let (args, defaults) = (expressions(&m.args), expressions(&m.defaults));
    Ok(Spanned::new(Macro { name: m.name, args, defaults, body }, m.span()))
}

/// A copy of a statement in which operators are calls.
///
/// # Errors
/// Where it reads another template: there is but one.
pub(super) fn rewrite<'a>(statement: &Stmt<'a>) -> Result<Stmt<'a>, Error> {
    macro_rules! new {
        ($kind:ident, $of:ident, $node:expr) => {
            Stmt::$kind(Spanned::new($node, $of.span()))
        };
    }
    Ok(match statement {
        Stmt::Template(s) => new!(Template, s, Template { children: statements(&s.children)? }),
        Stmt::EmitExpr(s) => new!(EmitExpr, s, EmitExpr { expr: expression(&s.expr) }),
        Stmt::EmitRaw(s) => new!(EmitRaw, s, EmitRaw { raw: s.raw }),
        Stmt::ForLoop(s) => {
            let mut body = Vec::new();
            if s.recursive {
                rename(&s.target, &mut body);
            }
            body.extend(statements(&s.body)?);
            let iter = call(LOOPED, vec![expression(&s.iter)], s.iter.span());
            let (target, filter_expr, else_body) = (expression(&s.target), optional(&s.filter_expr), statements(&s.else_body)?);
            new!(ForLoop, s, ForLoop { target, iter, filter_expr, recursive: s.recursive, body, else_body })
        }
        Stmt::IfCond(s) => {
            let (true_body, false_body) = (statements(&s.true_body)?, statements(&s.false_body)?);
            new!(IfCond, s, IfCond { expr: expression(&s.expr), true_body, false_body })
        }
        Stmt::WithBlock(s) => {
            let assignments = s.assignments.iter().map(|(target, expr)| (expression(target), named(expr))).collect();
            new!(WithBlock, s, WithBlock { assignments, body: statements(&s.body)? })
        }
        Stmt::Set(s) => {
            let expr = match s.target {
                Expr::GetAttr(_) => through(HELD, expression(&s.expr)),
                _ => named(&s.expr),
            };
            new!(Set, s, Set { target: place(&s.target), expr })
        }
        Stmt::SetBlock(s) => {
            let (target, filter) = (expression(&s.target), optional(&s.filter));
            new!(SetBlock, s, SetBlock { target, filter, body: statements(&s.body)? })
        }
        Stmt::AutoEscape(s) => {
            new!(AutoEscape, s, AutoEscape { enabled: expression(&s.enabled), body: statements(&s.body)? })
        }
        Stmt::FilterBlock(s) => {
            let (filter, filter_span) = (expression(&s.filter), s.filter_span);
            new!(FilterBlock, s, FilterBlock { filter, filter_span, body: statements(&s.body)? })
        }
        Stmt::Block(s) => new!(Block, s, Block { name: s.name, required: s.required, body: statements(&s.body)? }),
        Stmt::Macro(s) => Stmt::Macro(macro_of(s)?),
        Stmt::CallBlock(s) => {
            let (call, macro_decl) = (call_of(&s.call), macro_of(&s.macro_decl)?);
            new!(CallBlock, s, CallBlock { call, call_expr_span: s.call_expr_span, macro_decl })
        }
        Stmt::Continue(s) => new!(Continue, s, minijinja::machinery::ast::Continue),
        Stmt::Break(s) => new!(Break, s, minijinja::machinery::ast::Break),
        Stmt::Do(_) => return Err(Error::new(ErrorKind::SyntaxError, "an extension that chat templates do not have: do")),
        Stmt::Import(_) | Stmt::FromImport(_) | Stmt::Extends(_) | Stmt::Include(_) => {
            return Err(Error::new(ErrorKind::SyntaxError, "a chat template cannot read other templates"));
        }
    })
}
