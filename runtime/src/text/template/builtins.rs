//! Filters, functions and tests that mean the same in jinja2 and minijinja. The rest is in [`super::filters`],
//! [`super::operators`] and [`super::python`].
//!
//! Each is named here because `Environment::new` brings all of minijinja's, those too whose place another takes: a page
//! would download both.

use super::arithmetic;
use super::operators::paid;
use minijinja::{Environment, Error, State, Value, filters, functions, tests};

pub(super) fn extend(environment: &mut Environment) {
    environment.add_filter("safe", filters::safe);
    for name in ["escape", "e"] {
        environment.add_filter(name, filters::escape);
    }
    for name in ["length", "count"] {
        environment.add_filter(name, filters::length);
    }
    environment.add_filter("lower", filters::lower);
    environment.add_filter("upper", filters::upper);
    environment.add_filter("title", filters::title);
    environment.add_filter("capitalize", filters::capitalize);
    environment.add_filter("items", filters::items);
    environment.add_filter("abs", filters::abs);
    environment.add_filter("float", arithmetic::float);
    environment.add_filter("first", filters::first);
    environment.add_filter("last", filters::last);
    environment.add_filter("min", filters::min);
    environment.add_filter("max", filters::max);
    environment.add_filter("sort", filters::sort);
    environment.add_filter("list", filters::list);
    environment.add_filter("batch", filters::batch);
    environment.add_filter("slice", filters::slice);
    environment.add_filter("sum", filters::sum);
    environment.add_filter("select", filters::select);
    environment.add_filter("reject", filters::reject);
    environment.add_filter("selectattr", filters::selectattr);
    environment.add_filter("rejectattr", filters::rejectattr);
    environment.add_filter("map", filters::map);
    environment.add_filter("unique", filters::unique);
    environment.add_filter("dictsort", filters::dictsort);
    environment.add_filter("groupby", filters::groupby);
    // minijinja takes fuel for this one only where it adds it itself; `rewrite` sees to what sorts.
    environment.add_filter("reverse", |state: &State, value: Value| -> Result<Value, Error> {
        filters::reverse(&paid(state, value, 1)?)
    });

    environment.add_test("undefined", tests::is_undefined);
    environment.add_test("defined", tests::is_defined);
    environment.add_test("none", tests::is_none);
    environment.add_test("escaped", tests::is_safe);
    environment.add_test("boolean", tests::is_boolean);
    environment.add_test("odd", tests::is_odd);
    environment.add_test("even", tests::is_even);
    environment.add_test("divisibleby", tests::is_divisibleby);
    environment.add_test("number", tests::is_number);
    environment.add_test("integer", tests::is_integer);
    environment.add_test("float", tests::is_float);
    environment.add_test("string", tests::is_string);
    environment.add_test("mapping", tests::is_mapping);
    environment.add_test("lower", tests::is_lower);
    environment.add_test("upper", tests::is_upper);
    environment.add_test("sameas", tests::is_sameas);
    for name in ["lt", "lessthan", "<"] {
        environment.add_test(name, tests::is_lt);
    }
    for name in ["le", "<="] {
        environment.add_test(name, tests::is_le);
    }
    for name in ["gt", "greaterthan", ">"] {
        environment.add_test(name, tests::is_gt);
    }
    for name in ["ge", ">="] {
        environment.add_test(name, tests::is_ge);
    }
    environment.add_test("true", tests::is_true);
    environment.add_test("false", tests::is_false);
    environment.add_test("filter", tests::is_filter);
    environment.add_test("test", tests::is_test);

    environment.add_function("range", functions::range);
    environment.add_function("dict", functions::dict);
    environment.add_function("namespace", functions::namespace);
}
