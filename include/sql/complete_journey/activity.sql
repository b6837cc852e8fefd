-- What a household did on a day: one row for each day with a purchase or a coupon redeemed.
-- num_raw_rows counts every row of both fact tables once. Runs on Spark and on DuckDB alike.
--
-- Distinct products, departments and baskets are counted by grouping step by step: three
-- COUNT(DISTINCT ...) side by side make Spark write every raw row four times.
WITH lines AS (
    -- LEFT JOIN: a purchase of a product that is not in the catalogue is still a purchase.
    SELECT
        t.user_id,
        t.day,
        t.product_id,
        p.department,
        t.sales_value,
        t.retail_disc,
        -- Who pays for a coupon, maker or shop, makes no difference to what the offer costs.
        t.coupon_disc + t.coupon_match_disc AS coupon_discount,
        CASE WHEN t.retail_disc > 0 THEN 1 ELSE 0 END AS on_discount,
        CASE WHEN p.brand = 'Private' THEN 1 ELSE 0 END AS private_label,
        CASE WHEN p.department IN (
            'PRODUCE', 'MEAT', 'MEAT-PCKGD', 'SEAFOOD', 'SEAFOOD-PCKGD', 'DELI', 'PASTRY',
            'SALAD BAR'
        ) THEN 1 ELSE 0 END AS fresh
    FROM transactions AS t
    LEFT JOIN products AS p ON p.product_id = t.product_id
    WHERE t.day BETWEEN :first_day AND :last_day
),
bought AS (
    SELECT
        user_id,
        day,
        department,
        product_id,
        COUNT(*) AS num_rows,
        MAX(on_discount) AS on_discount,
        MAX(private_label) AS private_label,
        SUM(sales_value) AS sales,
        SUM(sales_value * fresh) AS fresh_sales,
        SUM(sales_value * private_label) AS private_label_sales,
        SUM(retail_disc) AS discount,
        SUM(coupon_discount) AS coupon_discount
    FROM lines
    GROUP BY user_id, day, department, product_id
),
departments AS (
    SELECT
        user_id,
        day,
        department,
        COUNT(*) AS num_products,
        SUM(num_rows) AS num_rows,
        MAX(on_discount) AS on_discount,
        MAX(private_label) AS private_label,
        SUM(sales) AS sales,
        SUM(fresh_sales) AS fresh_sales,
        SUM(private_label_sales) AS private_label_sales,
        SUM(discount) AS discount,
        SUM(coupon_discount) AS coupon_discount
    FROM bought
    GROUP BY user_id, day, department
),
baskets AS (
    SELECT user_id, day, basket_id
    FROM transactions
    WHERE day BETWEEN :first_day AND :last_day
    GROUP BY user_id, day, basket_id
),
parts AS (
    SELECT
        user_id,
        day,
        1 AS shopped,
        0 AS redeemed_coupon,
        on_discount,
        private_label,
        0 AS num_baskets,
        num_products,
        CASE WHEN department IS NULL THEN 0 ELSE 1 END AS num_departments,
        sales,
        fresh_sales,
        private_label_sales,
        discount,
        coupon_discount,
        num_rows
    FROM departments
    UNION ALL
    SELECT user_id, day, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0
    FROM baskets
    UNION ALL
    SELECT user_id, day, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1
    FROM coupon_redemptions
    WHERE day BETWEEN :first_day AND :last_day
)
SELECT
    user_id,
    day,
    CAST(MAX(shopped) AS DOUBLE) AS shopped,
    CAST(MAX(redeemed_coupon) AS DOUBLE) AS redeemed_coupon,
    CAST(MAX(on_discount) AS DOUBLE) AS bought_on_discount,
    CAST(MAX(private_label) AS DOUBLE) AS bought_private_label,
    CAST(SUM(num_baskets) AS DOUBLE) AS num_baskets,
    CAST(SUM(num_products) AS DOUBLE) AS num_products,
    CAST(SUM(num_departments) AS DOUBLE) AS num_departments,
    CAST(SUM(sales) AS DOUBLE) AS sales,
    CAST(SUM(fresh_sales) AS DOUBLE) AS fresh_sales,
    CAST(SUM(private_label_sales) AS DOUBLE) AS private_label_sales,
    CAST(SUM(discount) AS DOUBLE) AS discount,
    CAST(SUM(coupon_discount) AS DOUBLE) AS coupon_discount,
    CAST(SUM(num_rows) AS BIGINT) AS num_raw_rows
FROM parts
GROUP BY user_id, day
